"""Small things that every preparation needs of a MuData."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from mumask.data import category_names, check_is_mosaic, keep_order, kind_of_name, matrix_of


def copy_mudata(mdata: MuData) -> MuData:
    """Data of its own."""
    with keep_order():
        return mdata.copy()


def make_names_unique(mdata: MuData) -> None:
    """Number the duplicated feature names of each modality.

    A step of its own before any filter, because mudata cannot follow both at once.
    """
    repeated = {m: a for m, a in mdata.mod.items() if not a.var_names.is_unique}
    if not repeated:
        return
    with keep_order():
        mdata.update()  # the user may have filtered without it
        names = mdata.var_names.to_numpy(dtype=object, copy=True)
        for modality, adata in repeated.items():
            adata.var_names_make_unique()
            place = np.ravel(mdata.varmap[modality]).astype(np.int64)
            names[place > 0] = adata.var_names[place[place > 0] - 1]
        mdata.var.index = names  # left to update(), annotation of a renamed feature is lost
        mdata.update()


def replace_modalities(mdata: MuData, changed: Mapping[str, AnnData]) -> None:
    """Put other objects in place of modalities; cells and features may have become fewer."""
    with keep_order():
        for name, adata in changed.items():
            mdata.mod[name] = adata
        mdata.update()
        left = np.zeros(mdata.n_obs, dtype=bool)
        for adata in mdata.mod.values():
            left |= mdata.obs_names.isin(adata.obs_names)
        if not left.all():  # update() keeps the rows of cells that lost their last modality
            mdata._inplace_subset_obs(left)


def get_modality(mdata: MuData, modality: str, layer: str | None = None) -> AnnData:
    """One modality that may be written to.

    Raises
    ------
    TypeError
        If `mdata` is no MuData.
    KeyError
        If the modality or layer is not there.
    ValueError
        If `mdata` is a view, to which a result would not be attached, or backed by a file.
    """
    check_is_mosaic(mdata)
    if modality not in mdata.mod:
        raise KeyError(f"Modality {modality!r} is not in the MuData; it has {list(mdata.mod)}.")
    if mdata.is_view:
        raise ValueError("`mdata` is a view; make it data of its own first: mdata = mdata.copy().")
    adata = mdata.mod[modality]
    if adata.isbacked:
        raise ValueError(
            f"Modality {modality!r} is backed by a file; read it into memory to prepare it: "
            "mudata.read_h5mu(path)."
        )
    if layer is not None and layer not in adata.layers:
        raise KeyError(
            f"Modality {modality!r} has no layer {layer!r}; it has {list(adata.layers)}."
        )
    return adata


def values_of(adata: AnnData, layer: str | None):
    """The values to read, not copied."""
    if (values := matrix_of(adata, layer)) is None:
        raise ValueError(
            f"The modality has no X. Name the layer to read, of {sorted({*adata.layers} - {None})}."
        )
    return values


def kind_of(modality: str, adata: AnnData) -> str | None:
    """``"rna"``, ``"protein"`` or ``"atac"`` by the name of the modality or its feature types."""
    names = [modality]
    if "feature_types" in adata.var:
        names += list(pd.unique(adata.var["feature_types"].astype(str)))
    return next((kind for kind in map(kind_of_name, names) if kind), None)


def column_by_cell(mdata: MuData, adata: AnnData, key: str) -> pd.Series:
    """Column of the obs of `mdata` for the cells of one modality, in its order."""
    if key not in mdata.obs:
        raise KeyError(f"`batch_key`: {key!r} is not in mdata.obs: {list(mdata.obs.columns)}.")
    column = mdata.obs[key].reindex(adata.obs_names)
    if column.isna().any():
        raise ValueError(f"`batch_key`: {key!r} is missing (NaN) in {column.isna().sum()} cells.")
    return category_names(column).astype("category")
