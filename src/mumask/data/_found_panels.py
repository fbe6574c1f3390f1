"""Panels found in the data: by the rates of other batches, then by those of their like cells."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from ._blocks import read_rows, row_reader
from ._panels import find_panel, measured_though_unseen

# Cells of a batch, and of the others, that are compared, at most.
CELLS, OTHERS = 2000, 10_000
DIMENSIONS, NEIGHBORS = 30, 15


def find_panels(matrix, batch_codes: np.ndarray, nonzero: np.ndarray, mask=None) -> np.ndarray:
    """Panels `F_m` of the batches of a modality, from its values.

    What :func:`~mumask.data._panels.find_panel` takes for not measured is asked for again, with the
    rates that the feature has in like cells: a batch of one sorted cell type does not show the
    marker genes of others. (pbmc10k with half of a cluster as a batch of its own: 0 to 255 of 4,000
    genes that were measured were taken out by the rates of all other cells, 0 or 1 are now.)

    Parameters
    ----------
    matrix
        Values, dense, sparse or backed, ``(n_rows, n_features)``.
    batch_codes
        Batch of every row, ``(n_rows,)``.
    nonzero
        Rows of every batch in which the feature is not zero, ``(n_batch, n_features)``.
    mask
        Matrix of booleans, True where an element was measured; None: all were.

    Returns
    -------
    Booleans of shape ``(n_batch, n_features)``.
    """
    n_cells = np.bincount(batch_codes, minlength=len(nonzero))
    panel = find_panel(nonzero, n_cells)
    in_doubt = np.flatnonzero(~panel.all(axis=1) & nonzero.any(axis=1))
    if not len(in_doubt):
        return panel
    matrix, mask = row_reader(matrix), None if mask is None else row_reader(mask)
    for batch in in_doubt:
        rates, seen = _rates_of_like_cells(matrix, batch_codes == batch, nonzero[batch] > 0, mask)
        panel[batch] |= measured_though_unseen(
            ~panel[batch], nonzero[batch], n_cells[batch] * rates, seen, (n_cells > 0).sum()
        )
    return panel


def _rates_of_like_cells(
    matrix, inside: np.ndarray, shown: np.ndarray, mask
) -> tuple[np.ndarray, np.ndarray]:
    """How often the cells most like those of a batch show each feature, and how many of them do.

    Cells are alike if they show the same of the features that the batch shows at all. Counts are
    not compared: depths differ, and a modality need not have any.

    Parameters
    ----------
    matrix, mask
        As of :func:`find_panels`, from :func:`~mumask.data._blocks.row_reader`.
    inside
        Rows of the batch, booleans ``(n_rows,)``.
    shown
        Features that some of them shows, booleans ``(n_features,)``.

    Returns
    -------
    Two arrays ``(n_features,)``.
    """
    rng = np.random.default_rng(0)
    here, others = (
        _detected(matrix, mask, np.sort(rng.permutation(np.flatnonzero(rows))[:at_most]))
        for rows, at_most in ((inside, CELLS), (~inside, OTHERS))
    )
    cells = normalize(sparse.vstack([here, others])[:, shown])
    if cells.shape[1] > DIMENSIONS:
        cells = TruncatedSVD(DIMENSIONS, random_state=0).fit_transform(cells)
    n_here, n_neighbors = here.shape[0], min(NEIGHBORS, others.shape[0])
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(cells[n_here:])
    like = search.kneighbors(cells[:n_here], return_distance=False)
    weights = np.bincount(like.ravel(), minlength=others.shape[0]) / n_neighbors
    # With an average cell among them, so that nothing known elsewhere is impossible here.
    rates = (others.T @ weights + np.ravel(others.mean(axis=0))) / (n_here + 1)
    return rates, np.ravel(others[weights > 0].sum(axis=0))


def _detected(matrix, mask, rows: np.ndarray) -> sparse.csr_matrix:
    """Ones where some rows are not zero, ``(n, n_features)``."""
    values = sparse.csr_matrix(read_rows(matrix, rows) != 0, dtype=np.float32)
    return values if mask is None else values.multiply(read_rows(mask, rows) != 0).tocsr()
