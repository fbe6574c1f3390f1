"""Differences of gamma functions in single precision, beside double precision."""

from __future__ import annotations

import pytest
import torch

from mumask.nn._fused_losses import _negative_binomial_whole
from mumask.nn._gamma_ratios import digamma_difference, log_gamma_ratio


@pytest.mark.parametrize("log_theta", [-6, -1, 2.2, 2.4, 5, 9, 13, 16])
def test_differences_keep_their_digits(log_theta):
    x = torch.tensor([1.0, 2, 8, 30, 1000, 1e5])
    theta = torch.full_like(x, log_theta).exp()
    wide = x.double(), theta.double()
    exact = torch.lgamma(sum(wide)) - torch.lgamma(wide[1])
    torch.testing.assert_close(log_gamma_ratio(x, theta).double(), exact, rtol=2e-5, atol=1e-5)
    exact = torch.digamma(sum(wide)) - torch.digamma(wide[1])
    torch.testing.assert_close(digamma_difference(x, theta).double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("log_theta", [0, 4, 9, 13])
def test_the_gradient_of_a_nearly_poisson_dispersion_is_no_noise(log_theta):
    """Of whole-matrix operations, as an accelerator does them."""
    torch.manual_seed(0)
    theta = torch.full((30,), float(log_theta)).exp()
    counts = torch.poisson(torch.full((40, 30), 12.0)).clamp(min=1)
    raw, total = torch.randn(40, 30) / 10, counts.sum(dim=1, keepdim=True)
    starts, columns = torch.arange(41) * 30, torch.arange(30).repeat(40)
    given = [raw, torch.zeros(30), total, theta]
    sparse = starts, columns, counts.flatten()
    wide = [x.double() for x in given]
    exact = _negative_binomial_whole(*wide, starts, columns, counts.flatten().double())
    found = _negative_binomial_whole(*[x.clone() for x in given], *sparse)
    for one, other in zip(found, exact, strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-5 * scale + 1e-6)
