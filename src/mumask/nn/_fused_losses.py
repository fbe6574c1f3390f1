"""Losses of sparse counts with their gradients written out.

Nine counts in ten are zero. A zero costs ``theta log(1 + mu / theta)``, which needs no log-gamma;
the rest is computed for the non-zero counts alone, and most of it is looked up, since most of them
are small. On a CPU a cell is worked through at a time (:mod:`mumask.nn._row_kernels`), elsewhere
all of them in operations on whole matrices.
"""

from __future__ import annotations

import torch

from . import _row_kernels
from ._gamma_ratios import digamma_difference, log_gamma_ratio
from ._linear_outputs import passed_back
from ._row_kernels import SMALL


def _tables(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For counts 0 to SMALL - 1, shape ``(SMALL, n_features)``.

    First ``log x! - log Gamma(x + theta) / Gamma(theta) + x log theta``, what a count adds to the
    cost whatever the mean; then ``theta (psi(theta) - psi(x + theta))``. Both are sums over
    ``i < x``, of ``log((1 + i) / (1 + i / theta))`` and ``-1 / (1 + i / theta)``.
    """
    i = torch.arange(SMALL - 1, dtype=theta.dtype, device=theta.device).unsqueeze(1)
    grown = 1 + i / theta
    zero = theta.new_zeros(1, len(theta))
    gammas = torch.cat([zero, ((1 + i) / grown).log_().cumsum(0)])
    slopes = torch.cat([zero, grown.reciprocal().neg_().cumsum(0)])
    return gammas, slopes


def _rows(starts: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Row of every element, from where the rows start."""
    every = torch.arange(len(starts) - 1, device=starts.device)
    return every.repeat_interleave(starts.diff(), output_size=len(columns))


def _negative_binomial_whole(raw, bias, total, theta, starts, columns, counts):
    """Cost, and its derivatives to `raw`, which lacks the bias, and (over theta) to `log_theta`."""
    raw, rows = raw.add_(bias), _rows(starts, columns)
    share = torch.softmax(raw, dim=1)
    r = torch.mul(share, total).div_(theta)
    log1p_r, full = r.log1p(), r + 1
    cost = log1p_r @ theta
    torch.div(r, full, out=full)  # r / (1 + r)
    # From `raw`, since the share of an unlikely feature underflows; its log must not.
    offset = share.amax(dim=1).log() - raw.amax(dim=1) + total.squeeze(1).log()
    flat = rows * raw.shape[1] + columns
    log_mu = raw.reshape(-1).index_select(0, flat) + offset.index_select(0, rows)
    positive = log1p_r.view(-1).index_select(0, flat).sub_(log_mu).mul_(counts)
    gammas, slopes = _tables(theta)
    large = (counts >= SMALL).nonzero().squeeze(1)
    x, feature = counts.index_select(0, large), columns.index_select(0, large)
    theta_at = theta.index_select(0, feature)
    looked_up = counts.clamp(max=SMALL - 1).long().mul_(len(theta)).add_(columns)
    of_large = torch.lgamma(x + 1) + x * theta_at.log() - log_gamma_ratio(x, theta_at)
    gamma = gammas.view(-1).index_select(0, looked_up).index_copy_(0, large, of_large)
    cost.scatter_add_(0, rows, positive.add_(gamma))
    of_large = -theta_at * digamma_difference(x, theta_at)
    slope = slopes.view(-1).index_select(0, looked_up).index_copy_(0, large, of_large)
    rest_at = (1 - full.view(-1).index_select(0, flat)) * counts
    of_theta = log1p_r.sub_(full)
    of_theta.view(-1).scatter_add_(0, flat, (slope + rest_at) / theta.index_select(0, columns))
    of_raw = full.mul_(theta)
    of_raw.view(-1).scatter_add_(0, flat, -rest_at)
    of_raw.addcmul_(share, of_raw.sum(dim=1, keepdim=True), value=-1)
    return cost, of_raw, of_theta


def _detection_whole(raw, bias, log_total, starts, columns):
    """Cost, derivative to `raw`, which lacks the bias, and what ones add to that to `log_total`."""
    raw, rows = raw.add_(bias), _rows(starts, columns)
    share = torch.softmax(raw, dim=1)
    # From `raw`, since the share of an unlikely feature underflows; its log must not.
    offset = share.amax(dim=1).log() - raw.amax(dim=1) + log_total.squeeze(1)
    flat = rows * raw.shape[1] + columns
    log_mu = raw.reshape(-1).index_select(0, flat) + offset.index_select(0, rows)
    mu = log_mu.exp().clamp_(min=torch.finfo(raw.dtype).tiny)
    slope = mu / mu.neg().expm1_().neg_()  # mu / (1 - e^-mu), 1 at the unlikely
    of_ones = slope.new_zeros(len(share)).scatter_add_(0, rows, slope)
    cost = log_total.exp().squeeze(1).scatter_add(0, rows, slope.log().sub_(mu).sub_(log_mu))
    of_raw = share.mul_(of_ones.unsqueeze(1))
    of_raw.view(-1).scatter_add_(0, flat, slope.neg_())
    return cost, of_raw, of_ones


def _by_cell(raw: torch.Tensor) -> bool:
    return raw.device.type == "cpu" and raw.dtype == torch.float32


def excluded(mask: torch.Tensor) -> torch.Tensor:
    """Elements to take out of a softmax: those masked, but for cells of which nothing is left."""
    return ~mask & mask.any(dim=1, keepdim=True)


def _unmasked(
    hidden: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.dtype]:
    """Outputs but for the bias, -inf where masked, in full precision; that of the products."""
    if _by_cell(hidden) and not torch.is_autocast_enabled("cpu"):
        raw = _row_kernels.whole_lines(len(hidden), len(weight))
        product = torch.mm(hidden, weight.T, out=raw)
    else:
        product = hidden @ weight.T
        raw = product.to(weight.dtype)
    if mask is not None:
        raw.masked_fill_(excluded(mask), float("-inf"))
    return raw, product.dtype


class NegativeBinomialLoss(torch.autograd.Function):
    """Negative log-likelihood per cell of counts with mean ``total * softmax(raw)``.

    Call as ``NegativeBinomialLoss.apply(hidden, weight, bias, mask, total, log_theta, starts,
    columns, counts)``: the parts of :class:`LinearOutputs`, which give `raw` ``(n, n_features)``, what of it
    counts (booleans, or None for all), `total` ``(n, 1)``, `log_theta` ``(n_features,)`` and the
    unmasked non-zero counts row by row (:func:`~mumask.nn._values.by_row`). Returns shape ``(n,)``.

    With ``r = mu / theta``, a count `x` costs ``theta log(1 + r) + x log(1 + r) - x log r`` and the
    log-gammas of the negative binomial. Its derivative to ``log mu`` is
    ``theta r / (1 + r) - x / (1 + r)``, which the softmax passes on to `raw`; that to
    ``log theta`` is ``theta (log(1 + r) - r / (1 + r))``, and for a count ``x / (1 + r)`` and the
    derivative of the log-gammas more.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, mask, total, log_theta, starts, columns, counts):
        """Cost of every cell, and its derivatives in the same pass."""
        raw, ctx.dtype = _unmasked(hidden, weight, mask)
        function = _row_kernels.negative_binomial if _by_cell(raw) else _negative_binomial_whole
        with torch.autocast(raw.device.type, enabled=False):
            theta = log_theta.exp()
            cost, *derivatives = function(raw, bias, total, theta, starts, columns, counts)
        ctx.save_for_backward(hidden, weight, theta, *derivatives)
        return cost

    @staticmethod
    def backward(ctx, grad):
        """Gradient to the layer and to `log_theta`."""
        hidden, weight, theta, of_raw, of_theta = ctx.saved_tensors
        needed = ctx.needs_input_grad
        layer = passed_back(grad, of_raw, hidden, weight, needed[:3], ctx.dtype)
        grad_theta = theta * (grad @ of_theta) if needed[5] else None
        return *layer, None, None, grad_theta, None, None, None


class DetectionLoss(torch.autograd.Function):
    """Negative log-likelihood per cell of what Poisson counts of mean ``total * softmax(raw)`` show.

    Call as ``DetectionLoss.apply(hidden, weight, bias, mask, log_total, starts, columns)``, the first
    four as for :class:`NegativeBinomialLoss`, with `log_total` ``(n, 1)`` and the unmasked ones row
    by row; returns shape ``(n,)``.

    A zero costs ``mu``, a one ``-log(1 - e^-mu)``. The means of a cell add up to its total, so
    that ``total - sum log(e^mu - 1)`` over the ones is all of it, and nothing but the softmax
    passes over the dense matrix.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, mask, log_total, starts, columns):
        """Cost of every cell, and its derivatives in the same pass."""
        raw, ctx.dtype = _unmasked(hidden, weight, mask)
        function = _row_kernels.detection if _by_cell(raw) else _detection_whole
        with torch.autocast(raw.device.type, enabled=False):
            cost, of_raw, of_ones = function(raw, bias, log_total, starts, columns)
            of_total = log_total.exp() - of_ones.unsqueeze(1)
        ctx.save_for_backward(hidden, weight, of_raw, of_total)
        return cost

    @staticmethod
    def backward(ctx, grad):
        """Gradient to the layer and to `log_total`."""
        hidden, weight, of_raw, of_total = ctx.saved_tensors
        layer = passed_back(grad, of_raw, hidden, weight, ctx.needs_input_grad[:3], ctx.dtype)
        return *layer, None, of_total * grad.unsqueeze(1), None, None
