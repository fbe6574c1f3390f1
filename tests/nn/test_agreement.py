"""Directions of a latent space count as far as views of a cell agree on them."""

from __future__ import annotations

import pytest
import torch

from mumask.nn._agreement import POWER, Agreement


def test_directions_shrink_as_far_as_views_differ():
    """Four directions of equal variance, on which two views agree by .9, .6, .3 and not at all."""
    torch.manual_seed(0)
    shares = torch.tensor([0.9, 0.6, 0.3, 0.0])
    cells = torch.randn(50_000, 4) * shares.sqrt()
    views = [cells + torch.randn_like(cells) * (1 - shares).sqrt() for _ in range(2)]
    agreement = Agreement(4)
    agreement.add(views)
    found = agreement.map()
    # Of the mean of two views half of the noise is left, and shares are those of that mean.
    between = shares + (1 - shares) / 2
    weights = (between / (between + 1 - shares)) ** POWER
    expected = torch.diag(weights) / (weights.square() @ (between + 1 - shares)).sqrt()
    expected *= (between + 1 - shares).sum().sqrt()
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_a_mixture_of_axes_gives_the_same_distances():
    """Which numbers a latent space is written in is an accident of training."""
    torch.manual_seed(0)
    cells, noise = torch.randn(2000, 5), torch.randn(2000, 5) * torch.linspace(0, 2, 5)
    turn = torch.linalg.qr(torch.randn(5, 5))[0]
    one, other = Agreement(5), Agreement(5)
    one.add([cells, cells + noise])
    other.add([cells @ turn, (cells + noise) @ turn])
    there, again = cells @ one.map(), cells @ turn @ other.map()
    torch.testing.assert_close(torch.pdist(there), torch.pdist(again), atol=1e-3, rtol=0)


def test_the_order_and_parting_of_cells_change_nothing():
    torch.manual_seed(0)
    first, second = torch.randn(100, 3), torch.randn(100, 3)
    whole, parts = Agreement(3), Agreement(3)
    whole.add([first, second])
    order = torch.randperm(100)
    for rows in order.split(30):
        parts.add([second[rows], first[rows]])
    torch.testing.assert_close(whole.map(), parts.map())


@pytest.mark.parametrize("views", [[], [torch.randn(50, 3)], [torch.randn(0, 3)] * 2])
def test_without_several_views_nothing_changes(views):
    agreement = Agreement(3)
    agreement.add(views)
    assert torch.equal(agreement.map(), torch.eye(3))


def test_the_way_back_is_kept():
    """Of a direction without any agreement, and of one without any variance."""
    cells = torch.randn(500, 3) * torch.tensor([1.0, 1.0, 0.0])
    apart = torch.randn(500, 3) * torch.tensor([0.0, 100.0, 0.0])
    agreement = Agreement(3)
    agreement.add([cells + apart, cells - apart])
    found = agreement.map()
    again = torch.linalg.solve(found, cells @ found, left=False)
    torch.testing.assert_close(again, cells, atol=1e-3, rtol=1e-3)
