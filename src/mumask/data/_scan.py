"""One pass over a registered matrix: everything that validation, panels and the model ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from ._blocks import canonical, iterate_blocks, native, row_reader

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
    measured, feature_totals, nonzero
        By batch and feature, shape ``(n_batch, n_vars)``: cells that the mask says measured it, the
        sum of their values, and how many of those are not zero.
    """

    nonfinite: np.ndarray
    negative: np.ndarray
    fractional: np.ndarray
    not_binary: np.ndarray
    zero_rows: np.ndarray
    measured: np.ndarray
    feature_totals: np.ndarray
    nonzero: np.ndarray


def scan(matrix, batch_codes: np.ndarray, n_batch: int, mask=None) -> Scan:
    """Walk once over a matrix of shape ``(n_rows, n_vars)``.

    Parameters
    ----------
    matrix
        Dense, sparse or backed.
    batch_codes
        Batch of every row, shape ``(n_rows,)``.
    n_batch
        Number of batches.
    mask
        Matrix of booleans, True where an element was measured; None: all were. What is stored
        elsewhere is checked as well, and has no part in the sums.
    """
    n_vars = matrix.shape[1]
    bad: dict[str, list[np.ndarray]] = {
        name: [] for name in ("nonfinite", "negative", "fractional", "not_binary", "zero_rows")
    }
    shape, n_cells = (n_batch, n_vars), np.bincount(batch_codes, minlength=n_batch)
    measured = np.repeat(n_cells[:, None], n_vars, axis=1)
    feature_totals, nonzero = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    mask = None if mask is None else row_reader(mask)
    for part, block in iterate_blocks(matrix, every_element=mask is not None):
        if not sparse.issparse(block):
            block = sparse.csr_matrix(native(block))
        if not block.data.all():  # on a copy: a block may be a view of the user's matrix
            block = block.copy()
            block.eliminate_zeros()
        block = canonical(block)
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
        flat = batch_codes[part][row_of] * n_vars + block.indices
        if mask is not None:
            shown = mask[part]
            shown = shown.toarray() if sparse.issparse(shown) else np.asarray(shown)
            rows, columns = np.nonzero(shown == 0)
            hidden = batch_codes[part][rows] * n_vars + columns
            measured = measured - np.bincount(hidden, minlength=measured.size).reshape(shape)
            seen = shown[row_of, block.indices] != 0
            flat, values = flat[seen], values[seen]
        nonzero += np.bincount(flat, minlength=nonzero.size).reshape(shape)
        feature_totals += np.bincount(flat, values, minlength=nonzero.size).reshape(shape)
    found = {k: np.concatenate(v) if v else np.empty(0, dtype=int) for k, v in bad.items()}
    return Scan(measured=measured, feature_totals=feature_totals, nonzero=nonzero, **found)


def name_some(names: pd.Index, rows: np.ndarray) -> str:
    """The first three names of `rows`, for an error message."""
    shown = ", ".join(repr(name) for name in names[rows[:3]])
    return shown + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
