"""Reading rows of one modality, whatever its storage."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import h5py
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


def native(values):
    """The values in a type that scipy's sparse matrices can hold.

    They have no float16, and no byte order but that of the machine.
    """
    kind = values.dtype.newbyteorder("=")
    return values.astype(np.float32 if kind == np.float16 else kind, copy=False)


def canonical(values):
    """The values with every element of a sparse matrix stored once.

    Parts of an element that is stored several times add up: no function but a linear one may be
    applied to each. Its own copy where there are such; everything else as it is.
    """
    if not sparse.issparse(values) or values.has_canonical_format:
        return values
    values = values.copy()
    values.sum_duplicates()
    return values


def is_backed(matrix) -> bool:
    """Whether the matrix lives in a file."""
    return not (matrix is None or isinstance(matrix, np.ndarray) or sparse.issparse(matrix))


class SharedDataset(h5py.Dataset):
    """A dataset of an HDF5 file that is opened anew where it is unpickled: in a worker process.

    h5py refuses to pickle its own. A forked worker inherits the file, a spawned one does not.
    """

    def __init__(self, dataset: h5py.Dataset):
        super().__init__(dataset.id)

    def __reduce__(self):
        """Where it lies in which file; what waits to be written has to be there."""
        writable = self.file.mode != "r"
        if writable:
            self.file.flush()
        return _opened, (self.file.filename, self.name, writable)


def _opened(path: str, name: str, writable: bool) -> SharedDataset:
    # A process that may write holds a lock that keeps readers out.
    return SharedDataset(h5py.File(path, "r", locking=False if writable else None)[name])


def _for_workers(values):
    return SharedDataset(values) if isinstance(values, h5py.Dataset) else values


class RowSpans:
    """The parts of a CSR matrix, in a file (HDF5 or Zarr) or in memory, read in spans of rows.

    The pointers to the rows are kept in memory; anndata's own class builds a matrix of all rows
    for every access.
    """

    def __init__(self, shape: tuple[int, int], indptr: np.ndarray, indices, data):
        self.shape, self.nnz = shape, indices.shape[0]
        self._indptr, self._indices, self._data = indptr, indices, data

    def __getitem__(self, part: slice) -> sparse.csr_matrix:
        """Rows from `start` to `stop`."""
        start, stop, _ = part.indices(self.shape[0])
        indptr = self._indptr[start : stop + 1]
        at = slice(int(indptr[0]), int(indptr[-1]))
        shape = (stop - start, self.shape[1])
        return sparse.csr_matrix((self._data[at], self._indices[at], indptr - at.start), shape)


def row_reader(matrix):
    """Prepare a matrix for fast access by rows.

    CSR and dense matrices are used as they are, without a copy. A CSC matrix is turned into CSR
    once, since its rows cannot be reached one by one; this goes for one in a file, too.
    """
    if not sparse.issparse(matrix) and hasattr(matrix, "group"):
        if matrix.format != "csr":
            return row_reader(matrix.to_memory().tocsr())
        group = matrix.group
        indices, data = _for_workers(group["indices"]), _for_workers(group["data"])
        return RowSpans(matrix.shape, group["indptr"][:], indices, data)
    if not sparse.issparse(matrix):
        return _for_workers(matrix)
    return _with_one_index_type(matrix if matrix.format == "csr" else matrix.tocsr())


def _with_one_index_type(matrix):
    """The same values, with pointers to the rows of the type that the indices have.

    Where the two differ, as in files that anndata wrote piece by piece, scipy copies the indices of
    the whole matrix each time that rows are taken.
    """
    indices, indptr = matrix.indices, matrix.indptr
    if indices.dtype == indptr.dtype:
        return matrix
    if matrix.nnz > np.iinfo(indices.dtype).max:
        return RowSpans(matrix.shape, indptr, indices, matrix.data)
    same = sparse.csr_matrix(matrix.shape, dtype=matrix.dtype)
    same.data, same.indices, same.indptr = matrix.data, indices, indptr.astype(indices.dtype)
    return same


def bytes_per_row(matrix) -> float:
    """What a row of the output of :func:`row_reader` takes as a minibatch."""
    sparsely = isinstance(matrix, RowSpans) or sparse.issparse(matrix)
    return 12 * matrix.nnz / max(1, matrix.shape[0]) if sparsely else 4 * matrix.shape[1]


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
    block = _from_file(matrix, rows) if is_backed(matrix) else matrix[rows]
    if sparse.issparse(block):
        block = sparse.csr_matrix(block)
    if columns is not None:
        block = _take_columns(block, columns)
    if sparse.issparse(block):  # a zero that is stored is a zero all the same
        block.sum_duplicates()
        block.eliminate_zeros()
    return block.astype(np.float32, copy=False)


# Rows between two wanted ones that are read along, rather than reading twice.
GAP = 8


def _from_file(matrix, rows: np.ndarray):
    """Rows in any order, read in as few spans as possible."""
    if not len(rows):
        return matrix[:0]
    unique, inverse = np.unique(rows, return_inverse=True)
    parts = []
    for span in np.split(unique, np.flatnonzero(np.diff(unique) > GAP) + 1):
        part = matrix[int(span[0]) : int(span[-1]) + 1]
        parts.append(part if len(span) == part.shape[0] else part[span - span[0]])
    stack = sparse.vstack if sparse.issparse(parts[0]) else np.concatenate
    return stack(parts)[inverse] if len(parts) > 1 else parts[0][inverse]


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


def to_tensor(block, part: slice) -> torch.Tensor:
    """Some rows as a dense tensor, or as a CSR tensor where they are sparse enough to pay for it.

    The result shares memory with `block`.
    """
    if not sparse.issparse(block):
        return torch.from_numpy(np.ascontiguousarray(block[part]))
    indptr = block.indptr[part.start : part.stop + 1]
    at, shape = slice(indptr[0], indptr[-1]), (part.stop - part.start, block.shape[1])
    if at.stop - at.start >= SPARSE_BELOW * max(1, shape[0] * shape[1]):
        return torch.from_numpy(block[part].toarray())
    with warnings.catch_warnings():  # torch calls its CSR layout a beta feature
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(
            torch.from_numpy(indptr.astype(np.int64) - int(at.start)),
            torch.from_numpy(block.indices[at].astype(np.int64)),
            torch.from_numpy(block.data[at]),
            size=shape,
            check_invariants=False,
        )


# Stored values that a check looks at in one go: a few dozen megabytes with its temporaries.
VALUES_PER_BLOCK = 1_000_000


def iterate_blocks(matrix, every_element: bool = False) -> Iterator[tuple[slice, object]]:
    """Walk over a matrix in blocks of rows, so that a check never holds a copy of all of it.

    A CSC matrix is converted for it, since its rows cannot be reached one by one. Blocks are as
    large as their stored values allow, or every element where something dense goes along.
    """
    matrix = row_reader(matrix)
    elements = matrix.shape[0] * matrix.shape[1]
    stored = elements if every_element else getattr(matrix, "nnz", elements)
    n_rows = max(1, int(VALUES_PER_BLOCK * matrix.shape[0] / max(stored, 1)))
    for start in range(0, matrix.shape[0], n_rows):
        part = slice(start, min(start + n_rows, matrix.shape[0]))
        block = matrix[part]
        yield part, sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)


def is_binary(matrix) -> bool:
    """Whether all values are 0 or 1; stops at the first block that has another one."""
    for _, block in iterate_blocks(matrix):
        values = canonical(block).data if sparse.issparse(block) else block
        if not np.isin(values, (0, 1)).all():
            return False
    return True
