"""The loss of counts by cell and in whole matrices: one function, two ways to compute it."""

from __future__ import annotations

import pytest
import torch

from mumask.nn._fused_losses import (
    DetectionLoss,
    NegativeBinomialLoss,
    _detection_whole,
    _negative_binomial_whole,
)
from mumask.nn._row_kernels import SMALL, detection, negative_binomial

N, F = 9, 50


@pytest.fixture
def inputs():
    """Counts up to some thousands, dispersions from 0.01 to 1,000, masked features, an empty cell."""
    torch.manual_seed(0)
    raw = torch.randn(N, F) * 3
    raw[::2, 40:] = float("-inf")
    counts = torch.poisson(torch.rand(N, F).pow(4) * 12)
    counts[:, 3], counts[:, 4] = torch.arange(N) * 500.0, SMALL + torch.arange(N) - 4.0
    counts[::2, 40:] = 0
    counts[1] = 0
    rows, columns = counts.nonzero(as_tuple=True)
    theta = torch.logspace(-2, 3, F)[torch.randperm(F)]
    total = counts.sum(dim=1, keepdim=True).clamp(min=1)
    return raw, total, theta, rows, columns, counts[rows, columns]


@pytest.fixture
def ones(inputs):
    """The same cells with their counts cut to ones; some means far below what exponentials reach."""
    raw, _, _, rows, columns, _ = inputs
    raw[0, columns[rows == 0][:2]] = torch.tensor([-120.0, 60.0])
    n_open = torch.bincount(rows, minlength=N).float().clamp(min=1).unsqueeze(1)
    return raw, n_open.log() + 0.3, rows, columns


def double(inputs):
    return [x.double() if x.is_floating_point() else x for x in inputs]


def test_by_cell_is_in_whole_matrices(inputs):
    *one, of_theta = negative_binomial(*inputs)
    *other, exact = _negative_binomial_whole(*double(inputs))
    torch.testing.assert_close([x.double() for x in one], other, rtol=2e-5, atol=2e-5)
    # At a count it is a difference of two numbers of the count's size, in single precision.
    _, _, theta, rows, columns, counts = inputs
    size = torch.zeros(N, F).index_put_((rows, columns), counts / theta[columns])
    assert ((of_theta - exact).abs() < 2e-5 * (1 + size)).all()


def test_detection_by_cell_is_in_whole_matrices(ones):
    one, other = detection(*ones), _detection_whole(*double(ones))
    torch.testing.assert_close([x.double() for x in one], list(other), rtol=2e-5, atol=2e-5)


def test_derivatives_of_detection(ones):
    raw, log_total, *where = double(ones)
    raw = raw.nan_to_num(neginf=-5.0).clamp(-8, 8).requires_grad_()
    apply = lambda raw, log_total: DetectionLoss.apply(raw, log_total, *where)
    assert torch.autograd.gradcheck(apply, (raw, log_total.requires_grad_()))


def test_derivatives_of_whole_matrices(inputs):
    raw, total, theta, *counts = double(inputs)
    raw, log_theta = raw.nan_to_num(neginf=-5.0).requires_grad_(), theta.log().requires_grad_()
    apply = lambda raw, log_theta: NegativeBinomialLoss.apply(raw, total, log_theta, *counts)
    assert torch.autograd.gradcheck(apply, (raw, log_theta))


@pytest.mark.parametrize("function", [negative_binomial, detection])
def test_any_number_of_threads_gives_the_same(inputs, ones, function):
    given = ones if function is detection else inputs
    alone, before = function(*given), torch.get_num_threads()
    try:
        for threads in (2, 3, N + 1):
            torch.set_num_threads(threads)
            for one, other in zip(function(*given), alone, strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(before)


def test_what_is_not_a_number_shows(inputs):
    raw = inputs[0].clone()
    raw[2, 5] = float("nan")
    cost, *_ = negative_binomial(raw, *inputs[1:])
    assert cost.isnan().tolist() == [i == 2 for i in range(N)]


def test_what_is_not_a_number_shows_in_detection(ones):
    raw = ones[0].clone()
    raw[2, 5] = float("nan")
    cost, of_raw, _ = detection(raw, *ones[1:])
    assert cost.isnan().tolist() == [i == 2 for i in range(N)]
    assert of_raw.isnan().all(dim=1).tolist() == [i == 2 for i in range(N)]


def test_small_means_keep_their_precision(inputs):
    """``log(1 + r) - r / (1 + r)`` is about ``r^2 / 2``, of which a plain logarithm leaves nothing."""
    raw, total, _, *counts = inputs
    theta, nothing = torch.full((F,), 50.0), [part[:0] for part in counts]  # counts add to it
    raw = raw.nan_to_num(neginf=-5.0) * 0.1
    given = (raw, total.clamp(max=1), theta, *nothing)
    of_theta, exact = negative_binomial(*given)[2], _negative_binomial_whole(*double(given))[2]
    assert (of_theta - exact).abs().max() < 1e-9  # without it 6e-8
