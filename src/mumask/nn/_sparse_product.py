"""Product of a sparse minibatch and a weight matrix, with a gradient that stays sparse as well."""

from __future__ import annotations

import torch
from torch.nn import functional as F


class SparseProduct(torch.autograd.Function):
    """``(x - offset) @ weight`` for `x` in CSR parts; only the weight has a gradient.

    Call as ``SparseProduct.apply(row_starts, columns, values, offset, weight)`` with `weight` of
    shape ``(n_features, n_hidden)`` and `offset` ``(n_features,)`` or None; returns
    ``(n, n_hidden)``. Both directions add up rows of a dense table by an embedding bag: rows of
    the weight by cell, and rows of the gradient by feature. At one value in ten not zero this takes
    a third of the time of dense products, and no dense copy of `x`.
    """

    @staticmethod
    def forward(ctx, row_starts, columns, values, offset, weight):
        """Add up, for every cell, the weights of its features."""
        ctx.save_for_backward(row_starts, columns, values, offset)
        ctx.n_features = len(weight)
        product = _bag(row_starts, columns, values, weight)
        return product if offset is None else product.sub_(offset @ weight)

    @staticmethod
    def backward(ctx, grad):
        """Add up, for every feature, the gradients of its cells."""
        row_starts, columns, values, offset = ctx.saved_tensors
        rows = torch.repeat_interleave(
            torch.arange(len(row_starts) - 1, device=grad.device),
            row_starts.diff(),
            output_size=len(columns),
        )
        ordered, order = columns.int().sort(stable=True)
        features = torch.arange(ctx.n_features + 1, dtype=torch.int32, device=grad.device)
        starts = torch.searchsorted(ordered, features)
        grad_weight = _bag(
            starts, rows.index_select(0, order), values.index_select(0, order), grad.contiguous()
        )
        if offset is not None:
            grad_weight.addr_(offset, grad.sum(dim=0), alpha=-1)
        return None, None, None, None, grad_weight


def _bag(starts, indices, weights, table) -> torch.Tensor:
    """Weighted sums of rows of `table`; bag i holds the entries from ``starts[i]``."""
    return F.embedding_bag(
        indices,
        table,
        starts,
        per_sample_weights=weights.to(table.dtype),
        mode="sum",
        include_last_offset=True,
    )
