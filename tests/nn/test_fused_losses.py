"""The loss of counts by cell and in whole matrices: one function, two ways to compute it."""

from __future__ import annotations

import pytest
import torch

from mumask.nn import LIKELIHOODS, LinearOutputs
from mumask.nn._fused_losses import (
    DetectionLoss,
    NegativeBinomialLoss,
    _detection_whole,
    _negative_binomial_whole,
)
from mumask.nn._linear_outputs import ScaledOutputs, passed_back
from mumask.nn._row_kernels import SMALL, detection, negative_binomial
from mumask.nn._values import by_row

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
    total = counts.sum(dim=1, keepdim=True).clamp(min=1)
    starts, columns, counts = by_row(counts)
    theta = torch.logspace(-2, 3, F)[torch.randperm(F)]
    return raw, torch.randn(F), total, theta, starts, columns, counts


@pytest.fixture
def ones(inputs):
    """The same cells with their counts cut to ones; some means far below what exponentials reach."""
    raw, bias, _, _, starts, columns, _ = inputs
    raw[0, columns[:2]] = torch.tensor([-120.0, 60.0])
    n_open = starts.diff().float().clamp(min=1).unsqueeze(1)
    return raw, bias, n_open.log() + 0.3, starts, columns


def double(inputs):
    return [x.double() if x.is_floating_point() else x for x in inputs]


def test_by_cell_is_in_whole_matrices(inputs):
    *other, exact = _negative_binomial_whole(*double(inputs))
    *one, of_theta = negative_binomial(*inputs)
    torch.testing.assert_close([x.double() for x in one], other, rtol=2e-5, atol=2e-5)
    # At a count it is a difference of two numbers of the count's size, in single precision.
    _, _, _, theta, starts, columns, counts = inputs
    size = torch.sparse_csr_tensor(starts, columns, counts / theta[columns], (N, F)).to_dense()
    assert ((of_theta - exact).abs() < 2e-5 * (1 + size)).all()


def test_detection_by_cell_is_in_whole_matrices(ones):
    other, one = _detection_whole(*double(ones)), detection(*ones)
    torch.testing.assert_close([x.double() for x in one], list(other), rtol=2e-5, atol=2e-5)


@pytest.fixture
def layer():
    """Hidden units, weights and biases whose outputs are moderate, in double precision."""
    sizes = [(N, 3), (F, 3), (F,)]
    return [torch.randn(size, dtype=torch.double, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("masked", [False, True])
def test_derivatives_of_detection(ones, layer, masked):
    raw, _, log_total, *where = double(ones)
    mask = ~raw.isinf() if masked else None
    apply = lambda *given: DetectionLoss.apply(*given[:3], mask, given[3], *where)
    assert torch.autograd.gradcheck(apply, (*layer, log_total.requires_grad_()))


@pytest.mark.parametrize("masked", [False, True])
def test_derivatives_of_whole_matrices(inputs, layer, masked):
    raw, _, total, theta, *counts = double(inputs)
    mask = ~raw.isinf() if masked else None
    apply = lambda *given: NegativeBinomialLoss.apply(*given[:3], mask, total, given[3], *counts)
    assert torch.autograd.gradcheck(apply, (*layer, theta.log().requires_grad_()))


@pytest.mark.parametrize("needed", range(3))
def test_what_is_frozen_gets_no_gradient(ones, layer, needed):
    _, _, log_total, *where = ones
    layer = [x.detach().float().requires_grad_(i == needed) for i, x in enumerate(layer)]
    DetectionLoss.apply(*layer, None, log_total, *where).sum().backward()
    assert [x.grad is not None for x in layer] == [i == needed for i in range(3)]


def test_scaled_outputs_are_those_of_a_layer():
    layer = torch.nn.Linear(6, 7)
    outputs = LinearOutputs(torch.randn(5, 6), layer.weight, layer.bias)
    torch.testing.assert_close(outputs.raw(), layer(outputs.hidden))
    scale, shift = torch.rand(2, 7)
    scaled = ScaledOutputs(*outputs, scale, shift)
    torch.testing.assert_close(scaled.raw(), outputs.raw() * scale + shift)


def test_mixed_precision_rounds_products_and_nothing_else(ones, layer):
    _, _, log_total, *where = ones
    results = []
    for mixed in (False, True):
        parts = [x.detach().float().requires_grad_() for x in layer]
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            cost = DetectionLoss.apply(*parts, None, log_total, *where)
        cost.sum().backward()
        results.append([cost, *(x.grad for x in parts)])
    assert all(x.dtype == torch.float32 for x in results[1])
    of_weight = results[1][2]  # a product of the way back, so rounded too
    assert torch.equal(of_weight, of_weight.bfloat16().float())
    for exact, rounded in zip(*results, strict=True):
        assert not torch.equal(rounded, exact)
        assert (rounded - exact).norm() < 0.02 * exact.norm()


def test_mixed_precision_does_not_round_the_shift():
    """A thousand is rounded by four, the spread around it is a tenth."""
    layer = torch.nn.Linear(6, 8)
    outputs = LinearOutputs(torch.randn(5, 6), layer.weight, layer.bias)
    outputs = ScaledOutputs(*outputs, torch.full((8,), 0.1), torch.full((8,), 1e3))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs.raw()
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - outputs.raw()).abs().max() < 0.005


def test_half_precision_overflows_only_where_the_gradient_does():
    """The derivative of a deep cell does, times the gradient of its loss it does not."""
    grad, of_raw, weight = torch.full((3,), 1e-3), torch.full((3, 4), 1e4), torch.full((4, 2), 10.0)
    hidden = torch.ones(3, 2, dtype=torch.half)
    given = (grad, of_raw, hidden, weight, [True] * 3, torch.half)
    with torch.no_grad():
        of_hidden, of_weight, of_bias = passed_back(*given)
    torch.testing.assert_close(of_hidden, torch.full((3, 2), 400.0, dtype=torch.half))
    torch.testing.assert_close(of_weight, torch.full((4, 2), 30.0))
    torch.testing.assert_close(of_bias, torch.full((4,), 30.0))


@pytest.mark.parametrize("kind", ["nb", "bernoulli"])
def test_second_derivatives_are_refused(layer, kind):
    """Also those that pass by what lies before the layer: else a part of them would be missing."""
    before = torch.randn(N, 3, dtype=torch.double, requires_grad=True)
    outputs = LinearOutputs(before * layer[0], *layer[1:])
    cost = LIKELIHOODS[kind](F).double().nll(outputs, torch.ones(N, F).double())
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(cost.sum(), before, create_graph=True)


@pytest.mark.parametrize("function", [negative_binomial, detection])
def test_any_number_of_threads_gives_the_same(inputs, ones, function):
    given = ones if function is detection else inputs
    again = lambda: function(given[0].clone(), *given[1:])  # which is overwritten
    alone, before = again(), torch.get_num_threads()
    try:
        for threads in (2, 3, N + 1):
            torch.set_num_threads(threads)
            for one, other in zip(again(), alone, strict=True):
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
    raw, bias, total, *_ = inputs
    theta, nothing = torch.full((F,), 50.0), by_row(torch.zeros(N, F))  # counts add to it
    raw = raw.nan_to_num(neginf=-5.0) * 0.1
    given = (raw, bias * 0.1, total.clamp(max=1), theta, *nothing)
    exact, of_theta = _negative_binomial_whole(*double(given))[2], negative_binomial(*given)[2]
    assert (of_theta - exact).abs().max() < 1e-9  # without it 6e-8
