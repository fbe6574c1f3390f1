"""Attention over feature tokens, and the transformer block made of it.

Pre-norm blocks after Xiong et al. (ICML 2020); attention itself is
:func:`torch.nn.functional.scaled_dot_product_attention`. A token that is padding (absent modality,
unmeasured features) is a masked *key*; what a padded *query* returns is never read.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# All kernels but cuDNN's, which plans anew for every shape: those of masked minibatches differ from
# step to step.
KERNELS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class Attention(nn.Module):
    """Multi-head attention of ``queries`` over ``context`` (scMMAE, attention equations).

    Parameters
    ----------
    n_embed
        Token width D; a multiple of ``n_heads``.
    n_heads
        Number of heads h.
    dropout
        Dropout on the attention weights while training.
    """

    def __init__(self, n_embed: int, n_heads: int, dropout: float = 0.0):
        super().__init__()
        if n_embed % n_heads:
            raise ValueError(f"`n_embed`={n_embed} is not a multiple of `n_heads`={n_heads}.")
        self.n_heads = n_heads
        self.dropout = dropout
        self.to_query = nn.Linear(n_embed, n_embed)
        # A bias on the keys shifts all scores of a query alike: softmax cannot see it.
        self.to_key = nn.Linear(n_embed, n_embed, bias=False)
        self.to_value = nn.Linear(n_embed, n_embed)
        self.to_out = nn.Linear(n_embed, n_embed)
        quiet(self.to_out)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(self, queries: Tensor, context: Tensor, key_valid: Tensor | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        queries
            ``[n, q, D]``.
        context
            ``[n, k, D]``, keys and values.
        key_valid
            Bool ``[n, k]``, False = padding. A row without any valid key returns zeros.

        Returns
        -------
        Tensor
            ``[n, q, D]``.
        """
        mask, alive = _attention_mask(key_valid)
        with sdpa_kernel(KERNELS) if queries.is_cuda else nullcontext():
            out = F.scaled_dot_product_attention(
                self._heads(self.to_query(queries)),
                self._heads(self.to_key(context)),
                self._heads(self.to_value(context)),
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
            )
        out = self.to_out(out.transpose(1, 2).flatten(2))
        return out if alive is None else out * alive[:, None, None]

    def weights(self, queries: Tensor, context: Tensor, key_valid: Tensor | None = None) -> Tensor:
        """Softmax weights ``[n, h, q, k]`` that :meth:`forward` applies, for interpretation."""
        mask, alive = _attention_mask(key_valid)
        q, k = self._heads(self.to_query(queries)), self._heads(self.to_key(context))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if mask is None:
            return scores.softmax(-1)
        out = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return out * alive[:, None, None, None]


def _attention_mask(key_valid: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Broadcastable mask for the kernel, and which rows have a key at all.

    Rows without one see every key (a softmax over nothing is NaN) and are zeroed afterwards.
    """
    if key_valid is None:
        return None, None
    alive = key_valid.any(-1)
    return (key_valid | ~alive[:, None])[:, None, None, :], alive


def quiet(layer: nn.Linear) -> None:
    """Shrink the last layer of a residual branch, so that a block starts close to the identity."""
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.zero_()


class FeedForward(nn.Sequential):
    """Norm, widen by `ratio`, GELU, back; dropout after both layers."""

    def __init__(self, n_embed: int, ratio: float, dropout: float):
        hidden = int(n_embed * ratio)
        super().__init__(
            nn.LayerNorm(n_embed),
            nn.Linear(n_embed, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, n_embed),
            nn.Dropout(dropout),
        )
        quiet(self[4])


class SelfBlock(nn.Module):
    """Pre-norm transformer block ``x + SA(LN x)``, then ``x + FFN(LN x)``; ``[n, t, D]`` tokens."""

    def __init__(self, n_embed: int, n_heads: int, dropout: float = 0.0, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm = nn.LayerNorm(n_embed)
        self.attention = Attention(n_embed, n_heads, dropout)
        self.drop = nn.Dropout(dropout)
        self.feed_forward = FeedForward(n_embed, mlp_ratio, dropout)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens ``[n, t, D]`` and their validity ``[n, t]`` to tokens ``[n, t, D]``."""
        normed = self.norm(tokens)
        tokens = tokens + self.drop(self.attention(normed, normed, valid))
        return tokens + self.feed_forward(tokens)


def pool(tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of the valid tokens: ``[n, t, D]`` and bool ``[n, t]`` to ``[n, D]``; of none, zero."""
    if valid is None and tokens.shape[1]:
        return tokens.mean(1)
    weight = validity(tokens, valid).to(tokens.dtype)
    return torch.einsum("ntd,nt->nd", tokens, weight) / weight.sum(1, keepdim=True).clamp(min=1)


def validity(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Bool ``[n, t]``, True for tokens ``[n, t, D]`` that are no padding; `valid` if it is given."""
    return tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if valid is None else valid
