"""Measured values of one modality: dense or CSR, never both at once."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

# From this density on a dense matrix product beats gathering the rows of the weights.
DENSE_FROM = 0.02


def as_dense(x: torch.Tensor) -> torch.Tensor:
    """Dense copy of a CSR tensor; a dense tensor as it is."""
    return x if x.layout == torch.strided else x.to_dense()


def nonzeros(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, column and value of every non-zero element, each of shape ``(nnz,)``."""
    if x.layout == torch.strided:
        rows, columns = x.nonzero(as_tuple=True)
        return rows, columns, x[rows, columns]
    counts = x.crow_indices().diff()
    rows = torch.repeat_interleave(torch.arange(len(x), device=x.device), counts)
    return rows, x.col_indices().long(), x.values()


def row_sums(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of the unmasked values of every row, shape ``(n, 1)``."""
    if x.layout == torch.strided:
        return (x if mask is None else x * mask).sum(dim=1, keepdim=True)
    rows, columns, values = nonzeros(x)
    if mask is not None:
        values = values * mask[rows, columns]
    return values.new_zeros(len(x)).index_add_(0, rows, values).unsqueeze(1)


class InputTransform(nn.Module):
    """Brings raw values of a modality to the encoder's scale.

    Counts become ``log1p(x / s * t)``, where `s` is the sum of the visible counts of the cell and
    `t` what an average reference cell shows in the same features: cells with different panels and
    depths land on one scale. Binary and real values stay as they are.

    Parameters
    ----------
    support
        ``"count"``, ``"binary"`` or ``"real"``.
    profile
        Share of each feature in an average cell, shape ``(n_features,)``.
    total
        Total of an average cell.
    """

    def __init__(self, support: str, profile: torch.Tensor, total: float):
        super().__init__()
        self.support = support
        self.register_buffer("profile", profile.float())
        self.register_buffer("total", torch.tensor(float(total)))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Transform values of shape ``(n, n_features)``; masked elements become 0."""
        sparse = x.layout != torch.strided
        if self.support != "count":
            return x if mask is None else (as_dense(x) * mask)
        share = 1.0 if mask is None else (mask * self.profile).sum(dim=1, keepdim=True)
        scale = self.total * share / row_sums(x, mask).clamp(min=1.0)
        if not sparse:
            x = x * scale
            return (x if mask is None else x * mask).log1p_()
        rows, columns, values = nonzeros(x)
        values = torch.log1p(values * scale.squeeze(1)[rows])
        if mask is not None:
            values = values * mask[rows, columns]
        return torch.sparse_csr_tensor(
            x.crow_indices(), x.col_indices(), values, x.shape, check_invariants=False
        )


class FirstLayer(nn.Module):
    """Linear layer from one modality's features, for dense and for CSR values.

    This is the part ``W1`` of step 2 that belongs to the modality; the parts of all source
    modalities are added up, which equals one layer on the stacked input.
    """

    def __init__(self, n_features: int, n_hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_features, n_hidden))
        self.bias = nn.Parameter(torch.zeros(n_hidden))
        bound = n_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(n, n_features)`` to ``(n, n_hidden)``."""
        if x.layout == torch.strided:
            return torch.addmm(self.bias, x, self.weight)
        if x.values().numel() > DENSE_FROM * x.shape[0] * x.shape[1]:
            return torch.addmm(self.bias, x.to_dense(), self.weight)
        summed = F.embedding_bag(
            x.col_indices(),
            self.weight,
            x.crow_indices(),
            per_sample_weights=x.values(),
            mode="sum",
            include_last_offset=True,
        )
        return summed + self.bias
