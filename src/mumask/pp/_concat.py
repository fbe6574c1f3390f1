"""One mosaic MuData out of batches with different modalities and panels."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mumask.data import (
    PANEL_KEY,
    category_name,
    check_is_mosaic,
    keep_order,
    native,
    recorded_panels,
)

from ._columns import bring_up, writable

logger = logging.getLogger("mumask")


def concat_batches(
    batches: Mapping[str, AnnData | MuData | Mapping[str, AnnData]],
    *,
    modality: str = "rna",
    batch_key: str = "batch",
    obs_keys: Sequence[str] = (),
    unlabeled_category: str = "Unknown",
) -> MuData:
    """Build a mosaic MuData from batches that measured different modalities and features.

    Parameters
    ----------
    batches
        Batch name -> what it measured: an AnnData (of the modality `modality`), a dict modality
        -> AnnData, or a MuData. Cells of one batch are matched over modalities by name.
    modality
        Name of the modality of a plain AnnData.
    batch_key
        Column of ``mdata.obs`` to write the batch names to.
    obs_keys
        Columns of the batches' obs to bring up to ``mdata.obs`` even if some cells lack them;
        text is filled with `unlabeled_category`. Columns that every cell has, with one value in
        all its modalities, come up anyway. What is categorical in all batches stays so, ordered
        if the orders agree; numbers beside text become text.
    unlabeled_category
        Entry for cells without a label, as in ``setup_mudata``.

    Returns
    -------
    MuData in which a modality has the union of the features of its batches, in order of first
    appearance, and only the cells that have the modality. A feature a batch did not measure is
    stored as a zero (free in sparse data) and recorded as not measured in
    ``mdata[modality].varm["measured"]``, where ``setup_mudata`` finds it.
    Names of cells that occur in two batches lead to the batch name before all names. ``obsm``
    (``"spatial"``) is kept, of the modalities and at the top of a MuData, NaN in batches without
    it; layers are kept if all batches have them; of ``uns`` what no two batches differ in, and the
    colours of a batch that has one for every category. The batches are not changed.

    Raises
    ------
    ValueError
        If cell or feature names within a batch are not unique, or a batch is empty.

    Examples
    --------
    One CITE-seq run, and a targeted assay that measured 30 of its genes:

    >>> cite = {name: mdata[name].copy() for name in ("rna", "protein")}
    >>> targeted = mdata["rna"][:40, :30].copy()
    >>> joined = mumask.pp.concat_batches({"cite": cite, "merfish": targeted})
    >>> joined["rna"].shape
    (160, 100)
    >>> joined["rna"].varm["measured"].sum().to_dict()
    {'cite': 100, 'merfish': 30}
    >>> mumask.MaskedVAE.setup_mudata(joined, batch_key="batch")
    """
    if not isinstance(batches, Mapping):
        raise TypeError(
            f"`batches` is a {type(batches).__name__}. Name the batches: "
            "{'first': adata, 'second': adata2}."
        )
    parts = {category_name(name): _modalities(value, modality) for name, value in batches.items()}
    if not parts:
        raise ValueError("`batches` is empty.")
    if len(parts) < len(batches):
        raise ValueError(f"`batches`: two of {list(batches)} are one batch, as 1 and '1' are.")
    _check(parts)
    prefix = _needs_prefix(parts)
    if prefix:
        logger.info("Cell names occur in several batches: each now begins with its batch and '_'.")
    names = list(dict.fromkeys(name for by_mod in parts.values() for name in by_mod))
    merged = {}
    for name in names:
        members = {batch: by_mod[name] for batch, by_mod in parts.items() if name in by_mod}
        merged[name] = _merge(name, members, prefix)
    with keep_order():
        mdata = MuData(merged)
    cells = {b: _cells(b, by_mod, prefix) for b, by_mod in parts.items()}
    owner = pd.Series({cell: batch for batch, index in cells.items() for cell in index})
    mdata.obs[batch_key] = pd.Categorical(owner.reindex(mdata.obs_names), categories=list(parts))
    top = {
        batch: value.obs.set_axis(_renamed(value.obs_names, batch, prefix), axis=0)
        for batch, value in zip(parts, batches.values(), strict=True)
        if isinstance(value, MuData)
    }
    sources = [adata.obs for by_mod in parts.values() for adata in by_mod.values()]
    sources += list(top.values())
    bring_up(mdata, top, sources, list(obs_keys), batch_key, unlabeled_category)
    _keep_top_obsm(mdata, dict(zip(parts, batches.values(), strict=True)), cells, prefix)
    return mdata


def _modalities(value, modality: str) -> dict[str, AnnData]:
    if isinstance(value, AnnData):
        return {modality: value}
    if not isinstance(value, MuData | Mapping):
        raise TypeError(
            f"A batch is a {type(value).__name__}, {value!r:.40}. Read it first: an AnnData, a "
            "MuData, or a dict of AnnData by modality."
        )
    if isinstance(value, MuData):
        check_is_mosaic(value)
    found = dict(value.mod if isinstance(value, MuData) else value)
    for name, adata in found.items():
        if not isinstance(adata, AnnData):
            raise TypeError(
                f"Modality {name!r} of a batch is a {type(adata).__name__}, no AnnData."
            )
    if isinstance(value, MuData):  # cut from a mosaic, it keeps modalities without cells
        found = {name: adata for name, adata in found.items() if adata.n_obs}
    return found


def _check(parts: Mapping[str, Mapping[str, AnnData]]) -> None:
    for batch, by_mod in parts.items():
        where = f"Batch {batch!r}"
        if "/" in batch:
            raise ValueError(f"{where}: a slash in a batch name cannot be written to a file.")
        if not by_mod:
            raise ValueError(f"{where} has no modality.")
        for name, adata in by_mod.items():
            where = f"Batch {batch!r}, modality {name!r}"
            if adata.isbacked:
                raise ValueError(
                    f"{where} is backed by a file; read it into memory to join it: "
                    "anndata.read_h5ad(path), mudata.read_h5mu(path)."
                )
            if 0 in adata.shape:
                raise ValueError(
                    f"{where} is empty: {adata.n_obs} cells x {adata.n_vars} features. Leave it out."
                )
            if adata.X is None:
                raise ValueError(f"{where} has no X: put the counts there.")
            for kind, index in (("obs", adata.obs_names), ("var", adata.var_names)):
                if not index.is_unique:
                    twice = index[index.duplicated()][0]
                    raise ValueError(
                        f"{where}: {kind} names are not unique ({twice!r}). Call "
                        f"adata.{kind}_names_make_unique() first."
                    )


def _cells(batch: str, by_mod: Mapping[str, AnnData], prefix: bool) -> pd.Index:
    """Cells of a batch over its modalities, in order of first appearance."""
    names = list(dict.fromkeys(cell for adata in by_mod.values() for cell in adata.obs_names))
    return _renamed(pd.Index(names), batch, prefix)


def _renamed(names: pd.Index, batch: str, prefix: bool) -> pd.Index:
    return pd.Index([f"{batch}_{name}" for name in names]) if prefix else names.astype(str)


def _needs_prefix(parts) -> bool:
    def unique(prefix):
        lists = [_cells(batch, by_mod, prefix) for batch, by_mod in parts.items()]
        return lists[0].append(lists[1:]).is_unique

    if unique(False):
        return False
    if not unique(True):
        raise ValueError(
            "Cell names are not unique, not even with their batch before them. Rename the batches."
        )
    return True


def _merge(name: str, members: Mapping[str, AnnData], prefix: bool) -> AnnData:
    """One modality of all batches, rows in their order, columns the union of features."""
    union = list(dict.fromkeys(f for adata in members.values() for f in adata.var_names))
    union = pd.Index(union, dtype=object)
    measured = np.stack([_measured(name, batch, a, union) for batch, a in members.items()])
    # anndata 0.13 lists X among the layers, under None
    named = [set(adata.layers) - {None} for adata in members.values()]
    layers = set.intersection(*named)
    lost = set.union(*named) - layers
    if lost:
        logger.info(
            "Modality %r: layers %s are not in every batch and left out.", name, sorted(lost)
        )
    pieces = []
    for batch, adata in members.items():
        columns = union.get_indexer(adata.var_names)
        piece = AnnData(
            _widen(adata.X, columns, len(union), measured.all()),
            obs=adata.obs.set_axis(_renamed(adata.obs_names, batch, prefix), axis=0),
            var=pd.DataFrame(index=union),
            layers={
                layer: _widen(adata.layers[layer], columns, len(union), measured.all())
                for layer in layers
            },
        )
        _copy_obsm(adata, piece)
        piece.uns.update(adata.uns)
        pieces.append(piece)
    # features are aligned by now, so "outer" concerns obs columns and obsm alone
    merged = anndata.concat(pieces, join="outer", uns_merge="unique")
    merged.obs = merged.obs.apply(writable)
    _recolor(merged, members.values())
    _make_obsm_writable(merged)
    merged.var = _features([adata.var for adata in members.values()], union)
    merged.varm[PANEL_KEY] = pd.DataFrame(measured.T, union, list(members))
    for batch, row in zip(members, measured, strict=True):
        if not row.all():
            logger.info(
                "Modality %r: batch %r measured %d of %d features.",
                name,
                batch,
                row.sum(),
                len(row),
            )
    return merged


def _recolor(merged: AnnData, members: Collection[AnnData]) -> None:
    """Colours in ``uns`` follow the categories, which stand in another order than in a batch."""
    for name, column in merged.obs.items():
        key = f"{name}_colors"
        merged.uns.pop(key, None)
        if not isinstance(column.dtype, pd.CategoricalDtype):
            continue
        names = [category_name(value) for value in column.cat.categories]
        for adata in members:
            own = adata.obs.get(name)
            if key in adata.uns and isinstance(getattr(own, "dtype", None), pd.CategoricalDtype):
                known = map(category_name, own.cat.categories)
                colors = dict(zip(known, adata.uns[key], strict=False))
                if colors.keys() >= set(names):
                    merged.uns[key] = [colors[value] for value in names]
                    break


def _keep_top_obsm(mdata: MuData, batches: Mapping, cells: Mapping, prefix: bool) -> None:
    """What the batches that are a MuData hold of their cells over all modalities."""
    pieces = []
    for batch, value in batches.items():
        if not isinstance(value, MuData):
            continue
        names = _renamed(value.obs_names, batch, prefix)
        piece = AnnData(obs=pd.DataFrame(index=names))
        # under the name of a modality stands which cells have it
        _copy_obsm(value, piece, without={*value.mod, *mdata.mod})
        pieces.append(piece[names.isin(cells[batch])].copy())
    if not any(len(piece.obsm) for piece in pieces):
        return
    known = pieces[0].obs_names.append([piece.obs_names for piece in pieces[1:]])
    others = mdata.obs_names.difference(known, sort=False)
    if len(others):
        pieces.append(AnnData(obs=pd.DataFrame(index=others)))
    joined = anndata.concat(pieces, join="outer")[mdata.obs_names].copy()
    _make_obsm_writable(joined)
    for key, value in joined.obsm.items():
        mdata.obsm[key] = value


def _copy_obsm(source: AnnData | MuData, piece: AnnData, without: Collection[str] = ()) -> None:
    for key, value in source.obsm.items():
        if key in without:
            continue
        if isinstance(value, pd.DataFrame):
            value = value.set_axis(piece.obs_names, axis=0)
        piece.obsm[key] = value


def _make_obsm_writable(adata: AnnData) -> None:
    for key, value in adata.obsm.items():
        if isinstance(value, pd.DataFrame):
            adata.obsm[key] = value.apply(writable)


def _measured(name: str, batch: str, adata: AnnData, union: pd.Index) -> np.ndarray:
    """Features that a batch measured, ``(n_features,)``: what it records, or all that it has."""
    recorded = recorded_panels(adata, union)
    panels = [recorded[batch]] if batch in recorded else list(recorded.values())
    if any((panel != panels[0]).any() for panel in panels):
        raise ValueError(
            f"Batch {batch!r}, modality {name!r}: varm[{PANEL_KEY!r}] records different panels, of "
            f"{list(recorded)}. Pass these batches one by one under their names, or delete the "
            "record if it is not of these cells."
        )
    return panels[0] if panels else union.isin(adata.var_names)


def _widen(values, columns: np.ndarray, n_features: int, full: bool):
    """Values with their columns moved to `columns` of `n_features`; the others are zero."""
    values = native(values)  # dense float16 could not be stacked with a sparse batch
    if full and not sparse.issparse(values):
        wide = np.empty_like(np.asarray(values))
        wide[:, columns] = values
        return wide
    source = sparse.csr_matrix(values)
    shape = (source.shape[0], n_features)
    # a copy, because sorting is done in place and `values` belong to the user
    moved = sparse.csr_matrix(
        (source.data.copy(), columns[source.indices], source.indptr.copy()), shape=shape
    )
    moved.sort_indices()
    return moved


def _features(tables: Sequence[pd.DataFrame], union: pd.Index) -> pd.DataFrame:
    """Annotation of the features; where batches differ the first that has the feature counts."""
    var = pd.concat(tables)
    var = var[~var.index.duplicated()].reindex(union)
    columns = dict.fromkeys(column for table in tables for column in table)
    for column in columns:
        for table in tables:
            if column in table and var[column].isna().any():
                var[column] = var[column].where(var[column].notna(), table[column].reindex(union))
    return var.apply(writable)
