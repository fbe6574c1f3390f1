"""Choosing features of one modality."""

from __future__ import annotations

import logging
import warnings
from typing import Literal

import numpy as np
import scanpy as sc
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mumask.data import canonical, matrix_of, name_some, torch_threads_kept

from ._mudata import (
    column_by_cell,
    copy_mudata,
    get_modality,
    kind_of,
    replace_modalities,
    values_of,
)

logger = logging.getLogger("mumask")


def select_features(
    mdata: MuData,
    modality: str = "rna",
    n_top: int = 2000,
    *,
    batch_key: str | None = None,
    layer: str | None = None,
    flavor: Literal["auto", "seurat", "seurat_v3", "frequency"] = "auto",
    inplace: bool = False,
) -> MuData | None:
    """Keep the most informative features of a modality.

    Parameters
    ----------
    mdata
        Multimodal data.
    modality
        Key of the modality. Proteins are chosen by hand for every panel and left as they are,
        unless a flavor is named.
    n_top
        Number of features to keep, of those that tie for the last place the first; with fewer in
        the modality all stay.
    batch_key
        Column of ``mdata.obs``: features are ranked in each batch and those variable in most
        batches are kept, as scanpy does it.
    layer
        Layer with the counts; ``X`` by default.
    flavor
        ``"seurat"``: dispersion of log-normalised counts (scanpy). ``"seurat_v3"``: variance of
        standardised counts (scanpy; needs scikit-misc). ``"frequency"``: found in the most cells,
        the usual choice for peaks. ``"auto"``: frequency for peaks, none for proteins, else
        seurat.
    inplace
        Change `mdata` instead of returning new data.

    Returns
    -------
    New MuData, or None with `inplace`. All cells stay, as in scanpy; a warning tells how many have
    no count in the features kept, and what to do about them.

    Raises
    ------
    ValueError
        If no feature varies among the cells, or with `batch_key` among those of a batch.

    Examples
    --------
    >>> chosen = mumask.pp.select_features(mdata, "rna", n_top=40, batch_key="batch")
    >>> chosen["rna"].n_vars, mdata["rna"].n_vars
    (40, 100)
    """
    adata = get_modality(mdata, modality, layer)
    if n_top < 1:
        raise ValueError(f"`n_top` is {n_top}; at least one feature has to stay.")
    kind = kind_of(modality, adata)
    if flavor == "auto":
        flavor = {"protein": None, "atac": "frequency"}.get(kind, "seurat")
    target = mdata if inplace else copy_mudata(mdata)
    if flavor is None or n_top >= adata.n_vars:
        logger.info("Modality %r: all %d features are kept.", modality, adata.n_vars)
        return None if inplace else target
    batch = None if batch_key is None else column_by_cell(mdata, adata, batch_key)
    keep = rank_features(values_of(adata, layer), n_top, flavor, batch)
    chosen = target.mod[modality][:, keep].copy()
    logger.info(
        "Modality %r: %d of %d features are kept (%s).", modality, keep.sum(), adata.n_vars, flavor
    )
    replace_modalities(target, {modality: chosen})
    _warn_of_empty_cells(chosen, modality, layer)
    return None if inplace else target


def _warn_of_empty_cells(adata: AnnData, modality: str, layer: str | None) -> None:
    empty = np.flatnonzero(np.asarray((matrix_of(adata, layer) != 0).sum(axis=1)).ravel() == 0)
    if len(empty):
        counts = "X" if layer is None else f"layers[{layer!r}]"
        warnings.warn(
            f"Modality {modality!r}: {len(empty)} cells have no count in any of the "
            f"{adata.n_vars} kept features ({name_some(adata.obs_names, empty)}). They are left "
            "where they are, but a model will refuse them. Keep more features, or let these cells "
            f"count as not measured: found = np.ravel((mdata[{modality!r}].{counts} != 0)"
            f".sum(axis=1)) > 0; mdata.mod[{modality!r}] = mdata[{modality!r}][found].copy(); "
            "mdata.update(). mumask.pp.prepare does both steps.",
            UserWarning,
            stacklevel=3,
        )


@torch_threads_kept()
def rank_features(values, n_top: int, flavor: str, batch=None) -> np.ndarray:
    """Which `n_top` features to keep.

    Parameters
    ----------
    values
        Counts, cells x features.
    n_top
        Number of features.
    flavor
        As in :func:`select_features`.
    batch
        Categorical batch of every cell, or None.

    Returns
    -------
    Booleans of shape ``(n_features,)``.
    """
    if flavor == "frequency":
        found = np.asarray((values > 0).sum(axis=0)).ravel()
        keep = np.zeros(values.shape[1], dtype=bool)
        keep[np.argsort(-found, kind="stable")[:n_top]] = True
        return keep
    shell = AnnData(canonical(sparse.csr_matrix(values, dtype=np.float32)))
    if batch is not None:
        shell.obs["batch"] = batch.cat.remove_unused_categories().to_numpy()
        shell.obs["batch"] = shell.obs["batch"].astype("category")
    if flavor == "seurat":
        sc.pp.normalize_total(shell, target_sum=1e4)
        sc.pp.log1p(shell)
    elif flavor != "seurat_v3":
        raise ValueError(
            f"`flavor` {flavor!r} is unknown; take 'seurat', 'seurat_v3' or 'frequency'."
        )
    try:
        return _chosen_by_scanpy(shell, n_top, flavor, by_batch=batch is not None)
    except IndexError as error:  # scanpy looks for the highest of no dispersions
        raise ValueError(_nothing_to_rank(shell, flavor)) from error


def _chosen_by_scanpy(shell: AnnData, n_top: int, flavor: str, by_batch: bool) -> np.ndarray:
    with warnings.catch_warnings():  # deprecations inside of scanpy that no user can act on
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(
            shell,
            n_top_genes=n_top,
            flavor=flavor,
            batch_key="batch" if by_batch else None,
            inplace=False,
        )
    keep = table["highly_variable"].to_numpy(dtype=bool)
    if keep.sum() != n_top:  # ties are all kept, and features without a dispersion never
        keep = np.zeros(len(table), dtype=bool)
        order = np.argsort(-table["dispersions_norm"].to_numpy(), kind="stable")  # NaN is last
        keep[order[:n_top]] = True
    return keep


def _nothing_to_rank(shell: AnnData, flavor: str) -> str:
    """Which cells do not differ in any feature, so that none varies more than another."""
    if "batch" not in shell.obs:
        return (
            f"No feature varies among these {shell.n_obs} cells, so none can be ranked. Keep all "
            "of them, or take flavor='frequency' in select_features."
        )
    batches = shell.obs.groupby("batch", observed=True).indices.items()
    flat = [name for name, cells in batches if not _can_be_ranked(shell[cells], flavor)]
    return (
        f"`batch_key`: no feature varies in the batches {flat}, so none can be ranked there. Are "
        "they of one cell? Join them with others, leave their cells out, or choose features "
        "without `batch_key`."
    )


def _can_be_ranked(cells: AnnData, flavor: str) -> bool:
    found = np.ravel((cells.X != 0).sum(axis=0)) > 0  # scanpy leaves the others out of a batch
    try:
        _chosen_by_scanpy(cells[:, found].copy(), 1, flavor, by_batch=False)
    except IndexError:
        return False
    return True
