"""Losses of sparse counts with their gradients written out.

Nine counts in ten are zero. A zero costs ``theta log(1 + mu / theta)``, which needs no log-gamma;
the rest is computed for the non-zero counts alone, and most of it is looked up, since most of them
are small. Forward and backward together pass over the dense matrix of means some fifteen times, a
third of what automatic differentiation needs.
"""

from __future__ import annotations

import torch

# Below this, a count's part of the loss is looked up in a table of counts by features.
SMALL = 8


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


class NegativeBinomialLoss(torch.autograd.Function):
    """Negative log-likelihood per cell of counts with mean ``total * softmax(raw)``.

    Call as ``NegativeBinomialLoss.apply(raw, total, log_theta, rows, columns, counts)`` with `raw`
    of shape ``(n, n_features)`` (-inf at masked features), `total` ``(n, 1)``, `log_theta`
    ``(n_features,)`` and the unmasked non-zero counts as coordinates; returns shape ``(n,)``.

    With ``r = mu / theta``, a count `x` costs ``theta log(1 + r) + x log(1 + r) - x log r`` and the
    log-gammas of the negative binomial. Its derivative to ``log mu`` is
    ``theta r / (1 + r) - x / (1 + r)``; the softmax passes it on to `raw`.
    """

    @staticmethod
    def forward(ctx, raw, total, log_theta, rows, columns, counts):
        """Cost of every cell."""
        raw, theta = raw.to(log_theta.dtype), log_theta.exp()  # in full precision, always
        share = torch.softmax(raw, dim=1)
        r = torch.mul(share, total).mul_(log_theta.neg().exp_())
        log1p_r = r.log1p()
        cost = log1p_r @ theta
        # From `raw`, since the share of an unlikely feature underflows; its log must not.
        offset = share.amax(dim=1).log() - raw.amax(dim=1) + total.squeeze(1).log()
        flat = rows * raw.shape[1] + columns
        log_mu = raw.reshape(-1).index_select(0, flat) + offset.index_select(0, rows)
        positive = log1p_r.view(-1).index_select(0, flat).sub_(log_mu).mul_(counts)
        gammas, slopes = _tables(theta)
        large = (counts >= SMALL).nonzero().squeeze(1)
        x, feature = counts.index_select(0, large), columns.index_select(0, large)
        theta_at, log_theta_at = theta.index_select(0, feature), log_theta.index_select(0, feature)
        looked_up = counts.clamp(max=SMALL - 1).long().mul_(len(theta)).add_(columns)
        of_large = torch.lgamma(theta_at) + torch.lgamma(x + 1) - torch.lgamma(x + theta_at)
        of_large += x * log_theta_at
        gamma = gammas.view(-1).index_select(0, looked_up).index_copy_(0, large, of_large)
        slope = None
        if ctx.needs_input_grad[2]:
            of_large = theta_at * (torch.digamma(theta_at) - torch.digamma(x + theta_at))
            slope = slopes.view(-1).index_select(0, looked_up).index_copy_(0, large, of_large)
        ctx.save_for_backward(share, r, log1p_r, theta, rows, columns, flat, counts, slope)
        return cost.scatter_add_(0, rows, positive.add_(gamma))

    @staticmethod
    def backward(ctx, grad):
        """Gradient to `raw` and to `log_theta`."""
        share, r, log1p_r, theta, rows, columns, flat, counts, slope = ctx.saved_tensors
        full = r + 1
        torch.div(r, full, out=full)  # r / (1 + r)
        rest_at = (1 - full.view(-1).index_select(0, flat)) * counts

        grad_theta = grad_raw = None
        if ctx.needs_input_grad[2]:
            grad_theta = theta * (grad @ log1p_r - grad @ full)
            of_counts = grad.index_select(0, rows) * (rest_at + slope)
            grad_theta.scatter_add_(0, columns, of_counts)
        if ctx.needs_input_grad[0]:
            grad_raw = full.mul_(theta)
            grad_raw.view(-1).scatter_add_(0, flat, rest_at.neg_())
            grad_raw.addcmul_(share, grad_raw.sum(dim=1, keepdim=True), value=-1)
            grad_raw.mul_(grad.unsqueeze(1))
        return grad_raw, None, grad_theta, None, None, None


class BernoulliLoss(torch.autograd.Function):
    """Negative log-likelihood per cell of binary values with logits `raw`.

    Call as ``BernoulliLoss.apply(raw, rows, columns)`` with the coordinates of the unmasked ones;
    a masked element has the logit -inf and costs nothing. A value `x` costs
    ``log(1 + e^raw) - x raw``, with the derivative ``sigmoid(raw) - x``.
    """

    @staticmethod
    def forward(ctx, raw, rows, columns):
        """Cost of every cell, shape ``(n,)``; its derivative is prepared in the same memory."""
        raw = raw.float() if raw.dtype.itemsize < 4 else raw  # in full precision, always
        flat = rows * raw.shape[1] + columns
        open_ = torch.sigmoid(raw)
        # log(1 + e^raw) is -log(1 - open), or raw - log(open) where that is the larger one
        spare = 1 - open_
        torch.maximum(open_, spare, out=spare)
        cost = spare.log_().sum(dim=1).neg_()
        cost += torch.clamp(raw, min=0, out=spare).sum(dim=1)
        if ctx.needs_input_grad[0]:
            open_.view(-1).scatter_add_(0, flat, open_.new_full((len(flat),), -1.0))
            ctx.save_for_backward(open_)
        return cost.scatter_add_(0, rows, raw.reshape(-1).index_select(0, flat).neg_())

    @staticmethod
    def backward(ctx, grad):
        """Gradient to `raw`."""
        (slope,) = ctx.saved_tensors
        return slope * grad.unsqueeze(1), None, None
