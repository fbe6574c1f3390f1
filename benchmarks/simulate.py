"""Sparse matrices as large as one likes, for measurements of cost."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def random_csr(n_rows: int, n_columns: int, density: float, binary: bool, rng) -> sparse.csr_matrix:
    """CSR matrix with about `density` non-zeros per row, made without a dense or COO copy."""
    per_row = max(1, int(n_columns * density))
    # One random column in each of `per_row` equal stretches: sorted and unique by construction.
    start = (np.arange(per_row) * (n_columns / per_row)).astype(np.int32)
    width = n_columns // per_row
    indices = np.empty(n_rows * per_row, dtype=np.int32)
    for first in range(0, n_rows, 10_000):
        rows = min(10_000, n_rows - first)
        part = start + rng.integers(0, width, (rows, per_row), dtype=np.int32)
        indices[first * per_row : (first + rows) * per_row] = part.ravel()
    values = np.ones(len(indices), dtype=np.float32)
    if not binary:
        values += rng.poisson(0.5, len(indices)).astype(np.float32)
    indptr = np.arange(n_rows + 1, dtype=np.int64) * per_row
    return sparse.csr_matrix((values, indices, indptr), shape=(n_rows, n_columns))
