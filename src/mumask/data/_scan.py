"""One pass over a registered matrix: everything that validation, panels and the model ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from ._blocks import iterate_blocks, native

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Scan:
    """What one pass over the matrix of a modality found.

    Attributes
    ----------
    nonfinite, negative, fractional, not_binary
        Rows with a value of that kind (at most the first few, in order).
    zero_rows
        Rows without any non-zero value.
    totals
        Sum of every row, shape ``(n_rows,)``.
    feature_totals
        Sum of every feature, shape ``(n_vars,)``.
    nonzero
        Cells of every batch in which a feature is not zero, shape ``(n_batch, n_vars)``.
    """

    nonfinite: np.ndarray
    negative: np.ndarray
    fractional: np.ndarray
    not_binary: np.ndarray
    zero_rows: np.ndarray
    totals: np.ndarray
    feature_totals: np.ndarray
    nonzero: np.ndarray


def scan(matrix, batch_codes: np.ndarray, n_batch: int) -> Scan:
    """Walk once over a matrix of shape ``(n_rows, n_vars)``.

    Parameters
    ----------
    matrix
        Dense, sparse or backed.
    batch_codes
        Batch of every row, shape ``(n_rows,)``.
    n_batch
        Number of batches.
    """
    n_rows, n_vars = matrix.shape
    bad: dict[str, list[np.ndarray]] = {
        name: [] for name in ("nonfinite", "negative", "fractional", "not_binary", "zero_rows")
    }
    totals = np.zeros(n_rows)
    feature_totals = np.zeros(n_vars)
    nonzero = np.zeros((n_batch, n_vars), dtype=np.int64)
    for part, block in iterate_blocks(matrix):
        if not sparse.issparse(block):
            block = sparse.csr_matrix(native(block))
        if not block.data.all():  # on a copy: a block may be a view of the user's matrix
            block = block.copy()
            block.eliminate_zeros()
        values = block.data
        row_of = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        kinds = {
            "nonfinite": ~np.isfinite(values) if values.dtype.kind == "f" else None,
            "negative": values < 0 if values.dtype.kind != "u" else None,
            "fractional": values != np.round(values) if values.dtype.kind == "f" else None,
            "not_binary": values != 1,
        }
        for name, wrong in kinds.items():
            if wrong is not None and wrong.any():
                bad[name].append(part.start + np.unique(row_of[wrong]))
        bad["zero_rows"].append(part.start + np.flatnonzero(np.diff(block.indptr) == 0))
        totals[part] = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        feature_totals += np.bincount(block.indices, weights=values, minlength=n_vars)
        flat = batch_codes[part][row_of] * n_vars + block.indices
        nonzero += np.bincount(flat, minlength=n_batch * n_vars).reshape(n_batch, n_vars)
    found = {k: np.concatenate(v) if v else np.empty(0, dtype=int) for k, v in bad.items()}
    return Scan(totals=totals, feature_totals=feature_totals, nonzero=nonzero, **found)


def name_some(names: pd.Index, rows: np.ndarray, most: int = 3) -> str:
    """The first few names of `rows`, for an error message."""
    shown = ", ".join(repr(name) for name in names[rows[:most]])
    return shown + (f" and {len(rows) - most} more" if len(rows) > most else "")
