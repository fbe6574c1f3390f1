"""Groups of like cells that remember levels."""

from __future__ import annotations

import pytest
import torch

from mumask.nn import Metacells


@pytest.fixture
def groups():
    """Three groups of 20, 40 and 60 cells, far apart, with levels of their own."""
    torch.manual_seed(0)
    group = torch.arange(3).repeat_interleave(torch.tensor([20, 40, 60]))
    z = 30.0 * torch.nn.functional.one_hot(group, 3) + 5 + torch.randn(120, 3)
    levels = torch.rand(120, 4) + torch.tensor([0.0, 3.0, 7.0])[group, None]
    return group, z, levels


def fitted(z, levels, parts=1):
    metacells = Metacells(3, {"protein": 4, "rna": 2})
    metacells.place(z)
    for part in torch.arange(len(z)).chunk(parts):
        metacells.add("protein", z[part], levels[part])
    return metacells


def test_levels_are_means_of_the_cells_nearest(groups):
    _, z, levels = groups
    metacells = fitted(z, levels)
    used = metacells.sizes_protein > 0
    assert int(used.sum()) == len(z) // 10
    assert metacells.sizes_protein.sum() == len(z)
    own = torch.cdist(z, metacells.places[used]).argmin(1)
    for number in range(int(used.sum())):
        torch.testing.assert_close(
            metacells.levels_protein[used][number], levels[own == number].mean(0)
        )
    squares = (z - metacells.places[used][own]).square().sum(1)
    torch.testing.assert_close(metacells.radius**2, squares.mean(), rtol=1e-4, atol=0)


def test_order_and_size_of_minibatches_do_not_matter(groups):
    _, z, levels = groups
    whole, pieces = fitted(z, levels), fitted(z, levels, parts=7)
    torch.testing.assert_close(whole(z, "protein"), pieces(z, "protein"))
    order = torch.randperm(len(z))
    again = Metacells(3, {"protein": 4})
    again.place(z)
    again.add("protein", z[order], levels[order])
    torch.testing.assert_close(again(z, "protein"), whole(z, "protein"))


def test_a_cell_gets_the_levels_around_it(groups):
    group, z, levels = groups
    nearby = fitted(z, levels)(z, "protein")
    for number in range(3):
        expected = levels[group == number].mean(0).expand(int((group == number).sum()), -1)
        torch.testing.assert_close(nearby[group == number], expected, atol=0.4, rtol=0)


def test_cells_weigh_alike_and_near_ones_more():
    metacells = Metacells(1, {"rna": 1})
    metacells.places[1] = 2.0  # the others are at 0
    metacells.radius.fill_(0.5)
    z = torch.tensor([[0.0], [2.0]]).repeat_interleave(torch.tensor([10, 30]), 0)
    metacells.add("rna", z, z)
    half_way = metacells(torch.tensor([[1.0]]), "rna")
    torch.testing.assert_close(half_way, torch.tensor([[1.5]]))  # three quarters are at 2
    near = metacells(torch.tensor([[0.5]]), "rna")
    squares = torch.tensor([0.5, 1.5]).square() / 0.5**2
    weights = torch.tensor([10.0, 30.0]) * (-squares).exp()
    torch.testing.assert_close(near, (2 * weights[1] / weights.sum()).reshape(1, 1))


def test_what_is_forgotten_is_not_known(groups):
    _, z, levels = groups
    metacells = fitted(z, levels)
    assert metacells.knows("protein")
    assert not metacells.knows("rna")  # no cell had it
    assert not metacells.knows("atac")  # holds no counts
    metacells.forget()
    assert not metacells.knows("protein")
    metacells.add("protein", z, levels)
    metacells.place(z)
    assert not metacells.knows("protein")


def test_few_cells_and_equal_ones():
    z, levels = torch.zeros(4, 3), torch.arange(16.0).reshape(4, 4)
    metacells = fitted(z, levels)
    torch.testing.assert_close(metacells(z[:1], "protein"), levels.mean(0, keepdim=True))
