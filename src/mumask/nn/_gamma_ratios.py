"""Differences of gamma functions that are left of large numbers, in single precision.

Of a gene whose counts are nearly Poisson, the inverse dispersion is in the thousands. The difference
of two log-gammas there is what rounding leaves of numbers a thousand times as large, and its gradient
noise; from Stirling's series it is exact.
"""

from __future__ import annotations

import torch

STIRLING_FROM = 10.0  # the next term of both series is below 1e-8 from here on


def _parts(x: torch.Tensor, theta: torch.Tensor) -> tuple[torch.Tensor, ...]:
    small, large = theta.clamp(max=STIRLING_FROM), theta.clamp(min=STIRLING_FROM)
    return theta > STIRLING_FROM, small, large, x + large


def log_gamma_ratio(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """``log Gamma(x + theta) / Gamma(theta)`` of counts `x` and positive `theta`."""
    use_series, small, large, end = _parts(x, theta)
    series = x * end.log() + (large - 0.5) * torch.log1p(x / large) - x
    series = series + (1 / end - 1 / large) / 12 - (end**-3 - large**-3) / 360
    return torch.where(use_series, series, torch.lgamma(x + small) - torch.lgamma(small))


def digamma_difference(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """``psi(x + theta) - psi(theta)``, the derivative of :func:`log_gamma_ratio` to `theta`."""
    use_series, small, large, end = _parts(x, theta)
    series = torch.log1p(x / large) + x / (large * end) / 2
    series = series - (end**-2 - large**-2) / 12 + (end**-4 - large**-4) / 120
    return torch.where(use_series, series, torch.digamma(x + small) - torch.digamma(small))
