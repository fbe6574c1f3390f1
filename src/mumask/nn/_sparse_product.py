"""Product of a sparse minibatch and a weight matrix, with a gradient that stays sparse as well."""

from __future__ import annotations

import torch
from scipy import sparse
from torch.nn import functional as F


class SparseProduct(torch.autograd.Function):
    """``(x - offset) @ weight + bias`` for `x` in CSR parts; only weight and bias have gradients.

    Call as ``SparseProduct.apply(row_starts, columns, values, offset, weight, bias)`` with `weight`
    of shape ``(n_features, n_hidden)``, `bias` ``(n_hidden,)`` and `offset` ``(n_features,)`` or
    None; returns ``(n, n_hidden)``. Both directions add up rows of a dense table by an embedding
    bag: rows of the weight by cell, and rows of the gradient by feature. At one value in ten not
    zero this takes a third of the time of dense products, and no dense copy of `x`.
    """

    @staticmethod
    def forward(ctx, row_starts, columns, values, offset, weight, bias):
        """Add up, for every cell, the weights of its features."""
        ctx.save_for_backward(row_starts, columns, values, offset)
        ctx.n_features = len(weight)
        product = _bag(row_starts, columns, values, weight)
        return product.add_(bias if offset is None else bias - offset @ weight)

    @staticmethod
    def backward(ctx, grad):
        """Add up, for every feature, the gradients of its cells."""
        row_starts, columns, values, offset = ctx.saved_tensors
        starts, rows, values = _by_feature(row_starts, columns, values, ctx.n_features)
        grad_weight, grad_bias = _bag(starts, rows, values, grad.contiguous()), grad.sum(dim=0)
        if offset is not None:
            grad_weight.addr_(offset, grad_bias, alpha=-1)
        return None, None, None, None, grad_weight, grad_bias


def _by_feature(row_starts, columns, values, n_features: int) -> tuple[torch.Tensor, ...]:
    """The same values ordered by feature (CSC): starts, rows, values."""
    shape = (len(row_starts) - 1, n_features)
    if values.device.type == "cpu":  # counts where the other path has to sort: a third of its time
        parts = (values.numpy(), columns.numpy(), row_starts.numpy())
        csc = sparse.csr_matrix(parts, shape=shape).tocsc()
        return tuple(map(torch.from_numpy, (csc.indptr, csc.indices, csc.data)))
    every = torch.arange(shape[0], device=values.device)
    rows = torch.repeat_interleave(every, row_starts.diff(), output_size=len(columns))
    ordered, order = columns.int().sort(stable=True)
    features = torch.arange(n_features + 1, dtype=torch.int32, device=values.device)
    starts = torch.searchsorted(ordered, features)
    return starts, rows.index_select(0, order), values.index_select(0, order)


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
