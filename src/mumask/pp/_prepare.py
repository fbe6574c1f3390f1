"""From raw counts of all modalities to data a model can register, in one call."""

from __future__ import annotations

import logging

import numpy as np
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mumask.data import check_is_mosaic, is_binary

from ._mudata import (
    column_by_cell,
    copy_mudata,
    get_modality,
    kind_of,
    make_names_unique,
    replace_modalities,
)
from ._select import rank_features

logger = logging.getLogger("mumask")


def prepare(
    mdata: MuData,
    *,
    batch_key: str | None = None,
    n_top_genes: int | None = 2000,
    n_top_peaks: int | None = 30_000,
    inplace: bool = False,
) -> MuData | None:
    """Make counts ready for a model, and say in the log what was done.

    For each modality: duplicated feature names are made unique; ``X`` without counts is replaced by
    ``layers["counts"]`` if that has them; cells and features without any count are dropped; of
    genes the most variable are kept, of peaks the most frequent; peaks become 0 and 1. Proteins
    are all kept. Values are not normalised: the models take counts.

    Parameters
    ----------
    mdata
        Multimodal data with counts in ``X`` or ``layers["counts"]``. What a modality is, is read
        from its name (``"rna"``, ``"protein"``, ``"adt"``, ``"atac"``...) or from
        ``var["feature_types"]``; others are filtered for empty cells and features only.
    batch_key
        Column of ``mdata.obs``, for variable genes by batch.
    n_top_genes, n_top_peaks
        Number of features to keep, at least 1; None keeps all.
    inplace
        Change `mdata` instead of returning new data.

    Returns
    -------
    New MuData, or None with `inplace`. A cell that lost its last modality is gone.

    Examples
    --------
    >>> ready = mumask.pp.prepare(mdata, batch_key="batch", n_top_genes=50, n_top_peaks=100)
    >>> {name: ready[name].n_vars for name in ready.mod}
    {'rna': 50, 'protein': 12, 'atac': 100}
    """
    check_is_mosaic(mdata)
    for argument, limit in (("n_top_genes", n_top_genes), ("n_top_peaks", n_top_peaks)):
        if limit is not None and limit < 1:
            raise ValueError(
                f"`{argument}` is {limit}; at least one feature has to stay, and None keeps all."
            )
    limits = {"rna": n_top_genes, "atac": n_top_peaks}
    batches = {}
    for name in mdata.mod:
        adata = get_modality(mdata, name)
        batches[name] = None if batch_key is None else column_by_cell(mdata, adata, batch_key)
    for name, adata in mdata.mod.items():
        if n_repeated := adata.var_names.duplicated().sum():
            logger.info("Modality %r: %d duplicated feature names are made unique by a number.",
                        name, n_repeated)  # fmt: skip
    target = mdata if inplace else copy_mudata(mdata)
    if not inplace:
        make_names_unique(target)
    n_before = target.n_obs
    changed = {
        # a copy in place, so that an error in a later modality leaves the data as they were
        name: _prepared(name, adata.copy() if inplace else adata, batches[name], limits)
        for name, adata in target.mod.items()
    }
    if inplace:  # only now, for the same reason
        make_names_unique(target)
    replace_modalities(target, changed)
    if target.n_obs < n_before:
        logger.info("%d cells lost their last modality and are gone.", n_before - target.n_obs)
    return None if inplace else target


def _prepared(name: str, adata: AnnData, batch, limits: dict) -> AnnData:
    kind = kind_of(name, adata)
    adata.var_names_make_unique()
    if not _counts(adata.X):
        if "counts" in adata.layers and _counts(adata.layers["counts"]):
            logger.info("Modality %r: X holds no counts; it is now layers['counts'].", name)
            adata.X = adata.layers["counts"].copy()
        else:
            logger.warning(
                "Modality %r holds no counts (X has fractions or negative values, and there is no "
                "layer 'counts'); it is left as it is. Register it with "
                "likelihoods={%r: 'gaussian'}.",
                name, name,
            )  # fmt: skip
            return adata
    cells, features = _sums(adata.X, 1) > 0, _sums(adata.X, 0) > 0
    if not (cells.all() and features.all()):
        logger.info(
            "Modality %r: %d cells and %d features without a count are dropped.",
            name, (~cells).sum(), (~features).sum(),
        )  # fmt: skip
        adata = adata[cells, features].copy()
    limit = limits.get(kind)
    if limit is not None and limit < adata.n_vars:
        flavor = {"rna": "seurat", "atac": "frequency"}[kind]
        batch = None if batch is None else batch[adata.obs_names]
        keep = rank_features(adata.X, limit, flavor, batch)
        what = {"rna": "most variable genes", "atac": "most frequent peaks"}[kind]
        logger.info("Modality %r: the %d %s of %d are kept.", name, limit, what, adata.n_vars)
        adata = adata[:, keep].copy()
        cells = _sums(adata.X, 1) > 0
        if not cells.all():
            logger.info("Modality %r: %d cells have no count in them and are dropped.",
                        name, (~cells).sum())  # fmt: skip
            adata = adata[cells].copy()
    if kind == "atac" and not is_binary(adata.X):
        logger.info("Modality %r: counts are set to 0 and 1; the counts are in a layer.", name)
        adata.layers.setdefault("counts", adata.X)
        adata.X = (adata.X > 0).astype(np.float32)
    logger.info("Modality %r: %d cells x %d features.", name, *adata.shape)
    return adata


def _counts(values) -> bool:
    if values is None:
        return False
    stored = values.data if sparse.issparse(values) else np.asarray(values)
    if stored.dtype.kind in "ub":
        return True
    return bool(stored.size == 0 or (stored.min() >= 0 and (stored == np.round(stored)).all()))


def _sums(values, axis: int) -> np.ndarray:
    return np.asarray(values.sum(axis=axis)).ravel()
