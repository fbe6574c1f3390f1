"""Inputs from sparse counts on a CPU, compiled by numba: one pass over the stored values."""

from __future__ import annotations

import numpy as np
import torch

from ._row_kernels import ONE, ZERO, as_bits, by_rows, kernel, log1p


# Loops over a row of its own, counted from 0, vectorise; those over a part of all values do not.
@kernel
def _row_sums(first, last, starts, values, sums):
    for i in range(first, last):
        row, total = values[starts[i] : starts[i + 1]], ZERO
        for k in range(len(row)):
            total += row[k]
        sums[i] = total


@kernel
def _scaled_logs(first, last, starts, columns, values, sums, target, factor, limit, least, out):
    for i in range(first, last):
        row, logs = values[starts[i] : starts[i + 1]], out[starts[i] : starts[i + 1]]
        scale, highest = target / max(sums[i], ONE), as_bits(ZERO)
        for k in range(len(row)):
            logs[k] = log1p(row[k] * scale) * factor
        for k in range(len(row)):
            highest = max(highest, as_bits(logs[k]))  # in order where nothing is below 0
        if highest > as_bits(least):
            features = columns[starts[i] : starts[i + 1]]
            for k in range(len(row)):
                logs[k] = min(logs[k], limit[features[k]])


def compiled(x: torch.Tensor) -> bool:
    """Whether these functions take the matrix: CSR, single precision, on a CPU, data alone."""
    single = x.dtype == torch.float32 and not x.requires_grad
    return single and x.layout == torch.sparse_csr and x.device.type == "cpu"


def row_sums_of(x: torch.Tensor) -> torch.Tensor:
    """Sum of every row, ``(n, 1)``."""
    sums = torch.empty(len(x), 1)
    parts = x.crow_indices().numpy(), x.values().numpy(), sums.squeeze(1).numpy()
    by_rows(len(x), lambda *block: _row_sums(*block, *parts))
    return sums


def scaled_logs(
    x: torch.Tensor, sums: torch.Tensor, target: float, factor: float, limit: torch.Tensor
) -> torch.Tensor:
    """``min(factor log1p(target x / sum), limit)`` of the stored values, ``(nnz,)``.

    Parameters
    ----------
    x
        Counts, CSR, ``(n, n_features)``.
    sums
        Of the rows, ``(n, 1)``; taken to be at least 1.
    target, factor
        What rows are brought to, and what logarithms are multiplied by.
    limit
        By feature, ``(n_features,)``.
    """
    values = x.values()
    out = torch.empty_like(values)
    inputs = [part.numpy() for part in (x.crow_indices(), x.col_indices(), values, sums[:, 0])]
    scale = np.float32(target), np.float32(factor), limit.numpy(), np.float32(limit.min())
    by_rows(len(x), lambda *block: _scaled_logs(*block, *inputs, *scale, out.numpy()))
    return out
