"""Positions of cells as information: what surrounds a cell becomes a modality of its own."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from sklearn.neighbors import kneighbors_graph

from mumask.data import PANEL_KEY, native, recorded_panels

from ._mudata import column_by_cell, get_modality, replace_modalities, values_of

logger = logging.getLogger("mumask")


def spatial_context(
    mdata: MuData,
    modality: str = "rna",
    *,
    key: str = "spatial",
    n_neighbors: int = 30,
    batch_key: str | None = None,
    layer: str | None = None,
    to_modality: str = "context",
) -> None:
    """Add the summed counts of each cell's spatial neighbours as a modality.

    A model then encodes a cell from what it expresses and from where it lies, which is what
    spatial domains (tissue layers) are made of. Cells without a position simply lack the new
    modality, so dissociated cells can be in the same MuData.

    Parameters
    ----------
    mdata
        Multimodal data, changed in place: a modality is added.
    modality
        Modality to sum; its ``obsm[key]`` has the positions.
    key
        Key of the positions, cells x 2 or 3; NaN where a cell has none.
    n_neighbors
        Neighbours per cell, the cell itself not counted.
    batch_key
        Column of ``mdata.obs`` with the slice or section: neighbours are of the same one.
    layer
        Layer with counts; ``X`` by default.
    to_modality
        Key of the new modality. Its features are named like ``"Gad1_context"``.

    Notes
    -----
    Sums of counts are counts, so the likelihood stays that of counts. Panels that are recorded of
    `modality` hold for the new one. inClust uses positions as auxiliary information of spatial data
    in a similar way (Wang & Nie, 2024).

    Examples
    --------
    >>> rna = mdata["rna"]
    >>> rna.obsm["spatial"] = rng.uniform(size=(rna.n_obs, 2))
    >>> mumask.pp.spatial_context(mdata, n_neighbors=10)
    >>> mdata["context"].shape == rna.shape
    True
    """
    adata = get_modality(mdata, modality, layer)
    if to_modality in mdata.mod:
        raise ValueError(f"`to_modality`: the MuData already has a modality {to_modality!r}.")
    if key not in adata.obsm:
        raise KeyError(
            f"`key`: mdata[{modality!r}].obsm has no {key!r}; it has {list(adata.obsm)}."
        )
    positions = np.asarray(adata.obsm[key], dtype=np.float64)
    placed = np.flatnonzero(np.isfinite(positions).all(axis=1))
    slices = np.zeros(len(placed), dtype=int)
    if batch_key is not None:
        slices = column_by_cell(mdata, adata, batch_key).cat.codes.to_numpy()[placed]
    smallest = np.unique(slices, return_counts=True)[1].min(initial=len(placed))
    if not 1 <= n_neighbors < smallest:
        raise ValueError(
            f"`n_neighbors`={n_neighbors}: choose at least 1, and fewer than the {smallest} cells "
            "with a position (of the smallest section)."
        )
    values = sparse.csr_matrix(native(values_of(adata, layer)))[placed]
    parts, order = [], []
    for one in np.unique(slices):
        rows = np.flatnonzero(slices == one)
        near = kneighbors_graph(positions[placed[rows]], n_neighbors, include_self=False)
        parts.append(near @ values[rows])
        order.append(rows)
    sums = sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(order))]
    context = AnnData(
        sums.astype(np.float32),
        obs=pd.DataFrame(index=adata.obs_names[placed]),
        var=pd.DataFrame(index=adata.var_names + f"_{to_modality}"),
    )
    context.obsm[key] = positions[placed]
    if recorded := recorded_panels(adata, adata.var_names):
        context.varm[PANEL_KEY] = pd.DataFrame(recorded, index=context.var_names)
    replace_modalities(mdata, {to_modality: context})
    logger.info(
        "Modality %r: counts of %d spatial neighbours of %d cells.",
        to_modality, n_neighbors, len(placed),
    )  # fmt: skip
