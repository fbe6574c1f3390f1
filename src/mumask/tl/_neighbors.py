"""Imputation from nearest neighbours in a latent space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from mudata import MuData
from sklearn.neighbors import NearestNeighbors

from mumask.data import check_features, check_is_mosaic, matrix_of, measured_by_all

from ._values import in_memory


def impute_from_neighbors(
    query: MuData,
    reference: MuData,
    modality: str,
    *,
    use_rep: str = "X_mumask",
    layer: str | None = None,
    features: Sequence[str] | None = None,
    n_neighbors: int = 30,
    batch_key: str = "batch",
) -> pd.DataFrame:
    """Mean of a modality's measured values over the nearest reference cells in a latent space.

    A decoder gives the mean of counts; this gives the mean of whatever is averaged. For a score on
    a log scale, average normalised values: cells whose other modalities leave two levels open then
    come out between them, not near the higher one. Encode both data sets from the modalities that
    the query has, so that neighbours are neighbours in what is known of the query.

    Parameters
    ----------
    query
        Cells to impute; with `use_rep` in ``obsm``. Not changed.
    reference
        Cells of which those with the modality are averaged; with `use_rep` in ``obsm``. May be the
        MuData of the query: a cell of the same name is the cell itself and none of its own
        neighbours. Not changed.
    modality
        Modality of the reference to average.
    use_rep
        Key in ``obsm`` of both, shape ``(n_cells, n_latent)``, of one and the same model.
    layer
        Layer with the values, taken as they are; ``X`` by default.
    features
        Features to impute; all by default.
    n_neighbors
        Reference cells per query cell, by Euclidean distance, all weighing alike.
    batch_key
        Column of ``reference.obs`` with the batch, looked at only if panels are recorded
        (:func:`mumask.pp.panels`).

    Returns
    -------
    Data frame of the query's cells x features, in the unit of the values.

    Raises
    ------
    KeyError
        If a modality, feature or representation is missing, or `batch_key` where it is needed.
    ValueError
        If a cell has no place in the latent space, the two spaces differ in dimension,
        `n_neighbors` is below 1 or above the number of reference cells, or a feature was not
        measured in all of them.

    Examples
    --------
    >>> mdata.obsm["X_rna"] = model.get_latent_representation(source="rna")
    >>> query = mdata[mdata.obs["batch"] == "RNA-only"]
    >>> reference = mdata[mdata.obs["batch"] == "CITE-seq"]
    >>> mumask.tl.impute_from_neighbors(query, reference, "protein", use_rep="X_rna").shape
    (60, 12)
    """
    if n_neighbors < 1:
        raise ValueError(f"`n_neighbors` is {n_neighbors}; at least 1 cell has to be averaged.")
    for data in (query, reference):
        check_is_mosaic(data)
    if modality not in reference.mod:
        raise KeyError(f"The reference has no modality {modality!r}; it has {list(reference.mod)}.")
    check_features(reference, modality)
    adata = reference.mod[modality]
    names = adata.var_names if features is None else pd.Index(np.atleast_1d(features))
    columns = adata.var_names.get_indexer(names)
    if (columns < 0).any():
        strange = names[columns < 0][0]
        raise KeyError(f"`features`: modality {modality!r} of the reference has no {strange!r}.")
    measured = measured_by_all(reference, modality, adata.obs_names, batch_key)
    if len(lacking := names[~measured[columns]]):
        raise ValueError(
            f"Not every batch of the reference measured {lacking[0]!r}: pass a reference "
            "without the others, or the `features` that every batch measured."
        )
    places = _places(query, query.obs_names, use_rep, "query")
    others = _places(reference, adata.obs_names, use_rep, "reference")
    if others.shape[1] != places.shape[1]:
        raise ValueError(
            f"{use_rep!r} has {places.shape[1]} dimensions in the query and {others.shape[1]} in "
            "the reference: encode both with the same model."
        )
    # A cell of both is no neighbour of its own: its values would be handed back.
    own = adata.obs_names.get_indexer(query.obs_names)
    more = int((own >= 0).any())
    if n_neighbors + more > len(others):
        raise ValueError(
            f"`n_neighbors`={n_neighbors}, but only {len(others) - more} cells of the reference have "
            f"{modality!r}."
        )
    search = NearestNeighbors(n_neighbors=n_neighbors + more).fit(others)
    nearest = search.kneighbors(places, return_distance=False)
    if more:
        last = np.argsort(nearest == own[:, None], axis=1, kind="stable")
        nearest = np.take_along_axis(nearest, last, axis=1)[:, :-1]
    shape = (len(places), len(others))
    starts = np.arange(0, nearest.size + 1, n_neighbors)
    weights = np.full(nearest.size, 1 / n_neighbors, dtype=np.float32)
    values = in_memory(matrix_of(adata, layer))
    values = values if features is None else values[:, columns]
    mean = sp.csr_matrix((weights, nearest.ravel(), starts), shape) @ values
    values = mean.toarray() if sp.issparse(mean) else np.asarray(mean)
    return pd.DataFrame(values, index=query.obs_names, columns=names)


def _places(mdata: MuData, cells: pd.Index, use_rep: str, which: str) -> np.ndarray:
    if use_rep not in mdata.obsm:
        raise KeyError(
            f"The {which} has no {use_rep!r} in obsm; store a model's latent representation there."
        )
    places = np.asarray(mdata.obsm[use_rep])[mdata.obs_names.get_indexer(cells)]
    lost = cells[~np.isfinite(places).all(axis=1)]
    if len(lost):
        raise ValueError(
            f"{len(lost)} cells of the {which} have no place in {use_rep!r}, for example "
            f"{lost[0]!r}: leave them out."
        )
    return places
