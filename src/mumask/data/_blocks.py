"""Reading rows of one modality, whatever its storage."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

# Below this share of non-zeros a minibatch is handed over sparse: transformations and likelihoods
# then touch the non-zero values alone.
SPARSE_BELOW = 0.3


def matrix_of(adata: AnnData, layer: str | None):
    """The registered matrix of a modality, as it is stored (in memory or backed)."""
    return adata.X if layer is None else adata.layers[layer]


def is_backed(matrix) -> bool:
    """Whether the matrix lives in a file."""
    return not (isinstance(matrix, np.ndarray) or sparse.issparse(matrix))


def row_reader(matrix):
    """Prepare a matrix for fast access by rows.

    CSR and dense matrices are used as they are, without a copy. A CSC matrix is turned into CSR
    once, since its rows cannot be reached one by one; this goes for one in a file, too.
    """
    if getattr(matrix, "format", "csr") == "csr":
        return matrix
    return (matrix.to_memory() if is_backed(matrix) else matrix).tocsr()


def read_rows(matrix, rows: np.ndarray, columns: np.ndarray | None = None):
    """Rows of a matrix in the order asked for, features in the order of the reference.

    Parameters
    ----------
    matrix
        Output of :func:`row_reader`: dense, CSR or backed, of shape ``(n_rows, n_vars)``.
    rows
        Row numbers, in any order, of length ``n``.
    columns
        Column of every reference feature (-1: not there, read as 0), or ``None`` for all.

    Returns
    -------
    ``float32`` array or CSR matrix of shape ``(n, n_features)``.
    """
    if is_backed(matrix):  # files want their rows sorted and unique
        unique, inverse = np.unique(rows, return_inverse=True)
        block = matrix[unique][inverse] if len(rows) else matrix[:0]
    else:
        block = matrix[rows]
    if sparse.issparse(block):
        block = sparse.csr_matrix(block)
    if columns is not None:
        block = _take_columns(block, columns)
    if sparse.issparse(block):  # a zero that is stored is a zero all the same
        block.sum_duplicates()
        block.eliminate_zeros()
    return block.astype(np.float32, copy=False)


def _take_columns(block, columns: np.ndarray):
    found = columns >= 0
    if sparse.issparse(block):
        # A thin selector matrix keeps the block sparse and leaves missing features empty.
        selector = sparse.csr_matrix(
            (
                np.ones(found.sum(), dtype=block.dtype),
                (columns[found], np.flatnonzero(found)),
            ),
            shape=(block.shape[1], len(columns)),
        )
        return (block @ selector).tocsr()
    taken = np.zeros((block.shape[0], len(columns)), dtype=block.dtype)
    taken[:, found] = block[:, columns[found]]
    return taken


def to_tensor(block) -> torch.Tensor:
    """Dense tensor, or a CSR tensor where the block is sparse enough to pay for it."""
    if not sparse.issparse(block):
        return torch.from_numpy(np.ascontiguousarray(block))
    if block.nnz >= SPARSE_BELOW * max(1, block.shape[0] * block.shape[1]):
        return torch.from_numpy(block.toarray())
    with warnings.catch_warnings():  # torch calls its CSR layout a beta feature
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            torch.from_numpy(block.indptr.astype(np.int64)),
            torch.from_numpy(block.indices.astype(np.int64)),
            torch.from_numpy(block.data),
            size=block.shape,
            check_invariants=False,
        )


# Stored values that a check looks at in one go: a few dozen megabytes with its temporaries.
VALUES_PER_BLOCK = 1_000_000


def iterate_blocks(matrix) -> Iterator[tuple[slice, object]]:
    """Walk over a matrix in blocks of rows, so that a check never holds a copy of all of it.

    A CSC matrix is converted for it, since its rows cannot be reached one by one.
    """
    matrix = row_reader(matrix)
    stored = matrix.nnz if sparse.issparse(matrix) else matrix.shape[0] * matrix.shape[1]
    n_rows = max(1, int(VALUES_PER_BLOCK * matrix.shape[0] / max(stored, 1)))
    for start in range(0, matrix.shape[0], n_rows):
        part = slice(start, min(start + n_rows, matrix.shape[0]))
        block = matrix[part]
        yield part, sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)


def is_binary(matrix) -> bool:
    """Whether all values are 0 or 1; stops at the first block that has another one."""
    for _, block in iterate_blocks(matrix):
        values = block.data if sparse.issparse(block) else block
        if not np.isin(values, (0, 1)).all():
            return False
    return True
