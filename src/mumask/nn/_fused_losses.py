"""Losses of sparse counts with their gradients written out.

Nine counts in ten are zero. A zero costs ``theta log(1 + mu / theta)``, which needs no log-gamma;
the rest is computed for the non-zero counts alone. Forward and backward together pass over the
dense matrix of means about ten times, a third of what automatic differentiation needs.
"""

from __future__ import annotations

import torch


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
        theta = log_theta.exp()
        share = torch.softmax(raw, dim=1)
        log1p_r = torch.mul(share, total).div_(theta).log1p_()
        cost = log1p_r @ theta
        # From `raw`, since the share of an unlikely feature underflows; its log must not.
        top, where = raw.max(dim=1, keepdim=True)
        offset = share.gather(1, where).log() - top + total.log()
        log_r = raw[rows, columns] + offset[rows, 0] - log_theta[columns]
        theta_at = theta[columns]
        positive = (
            counts * (log1p_r[rows, columns] - log_r)
            + torch.lgamma(theta_at)
            + torch.lgamma(counts + 1)
            - torch.lgamma(counts + theta_at)
        )
        ctx.save_for_backward(share, log1p_r, log_theta, rows, columns, counts)
        return cost.index_add_(0, rows, positive)

    @staticmethod
    def backward(ctx, grad):
        """Gradient to `raw` and to `log_theta`."""
        share, log1p_r, log_theta, rows, columns, counts = ctx.saved_tensors
        theta = log_theta.exp()
        rest = torch.neg(log1p_r).exp_()  # 1 / (1 + r)
        rest_at = rest[rows, columns] * counts

        grad_theta = grad_raw = None
        if ctx.needs_input_grad[2]:
            zero = theta * (grad @ log1p_r + grad @ rest - grad.sum())
            theta_at = theta[columns]
            gammas = theta_at * (torch.digamma(theta_at) - torch.digamma(counts + theta_at))
            grad_theta = zero.index_add_(0, columns, grad[rows] * (rest_at + gammas))
        if ctx.needs_input_grad[0]:
            slope = rest.neg_().add_(1).mul_(theta)
            slope.view(-1).index_add_(0, rows * slope.shape[1] + columns, -rest_at)
            slope.addcmul_(share, slope.sum(dim=1, keepdim=True), value=-1)
            grad_raw = slope.mul_(grad.unsqueeze(1))
        return grad_raw, None, grad_theta, None, None, None


class BernoulliLoss(torch.autograd.Function):
    """Negative log-likelihood per cell of binary values with logits `raw`.

    Call as ``BernoulliLoss.apply(raw, rows, columns)`` with the coordinates of the unmasked ones;
    a masked element has the logit -inf and costs nothing. A value `x` costs
    ``log(1 + e^raw) - x raw``, with the derivative ``sigmoid(raw) - x``.
    """

    @staticmethod
    def forward(ctx, raw, rows, columns):
        """Cost of every cell, shape ``(n,)``."""
        ctx.save_for_backward(raw, rows, columns)
        cost = torch.nn.functional.softplus(raw).sum(dim=1)
        return cost.index_add_(0, rows, -raw[rows, columns])

    @staticmethod
    def backward(ctx, grad):
        """Gradient to `raw`."""
        raw, rows, columns = ctx.saved_tensors
        slope = torch.sigmoid(raw)
        flat = rows * raw.shape[1] + columns
        slope.view(-1).index_add_(0, flat, slope.new_full((len(flat),), -1.0))
        return slope.mul_(grad.unsqueeze(1)), None, None
