"""Measured values of one modality: dense or CSR, never both at once."""

from __future__ import annotations

import torch
from torch import nn

from ._sparse_inputs import compiled, row_sums_of, scaled_logs
from ._sparse_product import SparseProduct

# From this density on a dense matrix product beats adding up rows of the weights.
DENSE_FROM = {"cpu": 0.25}
DENSE_FROM_ELSEWHERE = 0.02


def as_dense(x: torch.Tensor) -> torch.Tensor:
    """Dense copy of a CSR tensor; a dense tensor as it is."""
    return x if x.layout == torch.strided else x.to_dense()


def nonzeros(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, column and value of every non-zero element, each of shape ``(nnz,)``, row by row."""
    if x.layout == torch.strided:
        rows, columns = x.nonzero(as_tuple=True)
        return rows, columns, x[rows, columns]
    if not hasattr(x, "coordinates"):  # kept with the minibatch: a step asks several times
        columns, counts = x.col_indices().long(), x.crow_indices().diff()
        rows = torch.arange(len(x), device=x.device)
        rows = rows.repeat_interleave(counts, output_size=len(columns))
        x.coordinates = rows, columns  # not the values: a view of `x`, which it would keep alive
    return *x.coordinates, x.values()


def by_row(
    x: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where every row starts, ``(n + 1,)``, and column and value of its unmasked non-zero elements."""
    if x.layout != torch.strided and mask is None:
        return x.crow_indices(), x.col_indices(), x.values()
    rows, columns, values = nonzeros(x)
    if mask is not None:
        seen = mask[rows, columns]
        rows, columns, values = rows[seen], columns[seen], values[seen]
    return torch.searchsorted(rows, torch.arange(len(x) + 1, device=x.device)), columns, values


def row_sums(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of the unmasked values of every row, shape ``(n, 1)``."""
    if x.layout == torch.strided:
        return (x if mask is None else x * mask).sum(dim=1, keepdim=True)
    if mask is None and hasattr(x, "row_sums"):  # kept as well
        return x.row_sums
    if mask is None and compiled(x):
        sums = row_sums_of(x)
    else:
        rows, columns, values = nonzeros(x)
        values = values if mask is None else values * mask[rows, columns]
        sums = values.new_zeros(len(x)).scatter_add_(0, rows, values).unsqueeze(1)
    if mask is None:
        x.row_sums = sums
    return sums


TARGET_TOTAL = 1e4
MIN_SPREAD, MAX_VALUE = 0.1, 10.0


class InputTransform(nn.Module):
    """Brings raw values of a modality to the encoder's scale.

    Counts and binary values become ``log1p(1e4 x / s)``, where the size `s` is the sum of what is
    visible of a cell, divided by the share that these features have of an average reference cell:
    cells seen through different panels and at different depths land on one scale. Then every
    feature is centred at its mean in the reference, so that a masked element, which counts as 0, is
    an average one, and scaled. Counts and binary values share one scale per modality, the mean
    deviation of its features: what varies little is mostly noise, and would drown the rest if it
    were blown up.
    Real values, whose units may differ, are scaled feature by feature.

    Parameters
    ----------
    support
        ``"count"``, ``"binary"`` or ``"real"``.
    profile
        Share of each feature in an average cell, shape ``(n_features,)``.
    standardize
        Centre and scale; without it a masked element is a plain 0, as in the paper.
    """

    def __init__(self, support: str, profile: torch.Tensor, standardize: bool = True):
        super().__init__()
        self.support, self.standardize = support, standardize
        self.register_buffer("profile", profile.float())
        if standardize:
            self.register_buffer("center", torch.zeros(len(profile)))
            self.register_buffer("spread", torch.ones(len(profile)))

    def normalise(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Values before standardisation, shape ``(n, n_features)``; masked elements are 0."""
        dense = x.layout == torch.strided
        if dense:
            values = x if mask is None else x * mask
        else:
            rows, columns, values = nonzeros(x)
            values = values if mask is None else values * mask[rows, columns]
        if self.support != "real":
            share = 1.0 if mask is None else (mask * self.profile).sum(dim=1, keepdim=True)
            scale = TARGET_TOTAL * share / row_sums(x, mask).clamp(min=1.0)
            scale = scale if dense else scale.squeeze(1).index_select(0, rows)
            values = torch.log1p(values * scale)
        return values if dense else _with_values(x, values)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Standardised values as ``values - offset``, so that sparse values stay sparse.

        Returns
        -------
        Values of shape ``(n, n_features)``, dense or CSR, and the offset: None,
        ``(n_features,)``, or with a mask ``(n, n_features)`` and 0 at masked elements.
        """
        if not self.standardize:
            return self.normalise(x, mask), None
        offset = self.center / self.spread
        limit = MAX_VALUE + offset
        if mask is None and self.support != "real" and compiled(x):
            factor = 1 / float(self.spread[0])  # one for all features
            logs = scaled_logs(x, row_sums(x), TARGET_TOTAL, factor, limit)
            return _with_values(x, logs), offset
        values = self.normalise(x, mask)
        if values.layout == torch.strided:
            values = torch.clamp(values / self.spread, max=limit)
            if self.support == "real":  # others cannot be far below their mean
                values = torch.maximum(values, offset - MAX_VALUE)
        else:
            columns = values.col_indices().long()
            scaled = values.values() / self.spread.index_select(0, columns)
            scaled = torch.minimum(scaled, limit.index_select(0, columns))
            if self.support == "real":
                scaled = torch.maximum(scaled, (offset - MAX_VALUE).index_select(0, columns))
            values = _with_values(values, scaled)
        return values, offset if mask is None else offset * mask

    def complete(
        self,
        inputs: tuple[torch.Tensor, torch.Tensor | None],
        x: torch.Tensor,
        mask: torch.Tensor,
        missing: torch.Tensor,
        expected: torch.Tensor,
    ) -> tuple[torch.Tensor, None]:
        """Standardised values of cells in which some elements are expected, not measured.

        Parameters
        ----------
        inputs
            Values and offset from :meth:`forward`, for the cells that miss nothing.
        x, mask
            Raw values and what of them is visible, ``(n, n_features)``.
        missing
            Elements to fill in, ``(n, n_features)``.
        expected
            Raw values expected of all elements, at the depth of the cell, ``(n, n_features)``.
            Their sum is the size of the cell.

        Returns
        -------
        Values of shape ``(n, n_features)``, dense, 0 where neither visible nor filled in, and no
        offset. The expected logarithm of a count is taken as the chance that it is not zero
        (Poisson) times the logarithm of its mean where it is not.
        """
        measured, offset = inputs
        measured = as_dense(measured) - (0.0 if offset is None else offset)
        values = as_dense(x)
        if self.support != "real":
            scale = TARGET_TOTAL / expected.sum(dim=1, keepdim=True)
            seen = expected if self.support == "binary" else -torch.expm1(-expected)
            expected = seen * torch.log1p(scale * expected / seen.clamp(min=1e-8))
            values = torch.log1p(scale * values)
        values = torch.where(missing, expected, values)
        if self.standardize:
            values = ((values - self.center) / self.spread).clamp(-MAX_VALUE, MAX_VALUE)
        values = torch.where(mask | missing, values, 0.0)
        return torch.where(missing.any(dim=1, keepdim=True), values, measured), None

    def moments(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Number, sum and sum of squares of the unmasked values by feature, ``(3, n_features)``."""
        values = self.normalise(x, mask)
        # Of real values the spread may be small beside the centre.
        kind = torch.double if self.support == "real" else self.profile.dtype
        zeros = torch.zeros_like(self.profile, dtype=kind)
        n = zeros + len(x) if mask is None else mask.sum(dim=0)
        if values.layout == torch.strided:
            values = values.to(kind)
            return torch.stack([n, values.sum(dim=0), (values**2).sum(dim=0)])
        columns, v = values.col_indices().long(), values.values().to(kind)
        sums = [zeros.index_add(0, columns, power) for power in (v, v**2)]
        return torch.stack([n, *sums])

    def set_scale(self, moments: torch.Tensor) -> None:
        """Set centre and spread from the moments of reference cells."""
        if self.standardize:
            n, total, square = moments
            mean = total / n.clamp(min=1)
            self.center.copy_(mean)
            spread = (square / n.clamp(min=1) - mean**2).clamp(min=0).sqrt()
            if self.support == "real":  # in the unit of the data, whatever that is
                spread = spread.clamp(min=max(MIN_SPREAD * float(spread.mean()), 1e-6))
            else:
                spread = spread.clamp(min=MIN_SPREAD)
                spread = spread[n > 0].mean() if (n > 0).any() else spread
            self.spread.copy_(spread)


def _with_values(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
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

    def forward(self, x: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
        """Map ``x - offset``, ``(n, n_features)``, to ``(n, n_hidden)``."""
        if x.layout == torch.strided and offset is not None:
            # First: reduced precision leaves little of a difference between two large products.
            x, offset = x - offset, None
        elif x.layout != torch.strided:
            dense_from = DENSE_FROM.get(x.device.type, DENSE_FROM_ELSEWHERE)
            if x.values().numel() > dense_from * x.shape[0] * x.shape[1]:
                x = x.to_dense()
        if x.layout == torch.strided:
            bias = self.bias if offset is None else self.bias - offset @ self.weight
            return x @ self.weight + bias
        same = None if offset is None or offset.ndim > 1 else offset
        by_cell = None if offset is None or offset.ndim == 1 else offset
        with torch.autocast(x.device.type, enabled=False):
            product = SparseProduct.apply(
                x.crow_indices(), x.col_indices(), x.values(), same, self.weight, self.bias
            )
        return product if by_cell is None else product - by_cell @ self.weight
