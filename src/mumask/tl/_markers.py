"""Markers of clusters: scanpy's ranking for the modalities of a mosaic."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from mumask.data import (
    category_name,
    category_names,
    check_is_mosaic,
    is_binary,
    matrix_of,
    measured_by_all,
    torch_threads_kept,
)

from ._values import in_memory

logger = logging.getLogger("mumask")

# A test between groups of one cell says nothing.
MIN_CELLS = 2
METHODS = ("wilcoxon", "t-test", "t-test_overestim_var")


@torch_threads_kept()
def rank_markers(
    mdata: MuData,
    groupby: str,
    modality: str = "rna",
    *,
    denoised: pd.DataFrame | None = None,
    layer: str | None = None,
    groups: str | Sequence[str] = "all",
    reference: str = "rest",
    n_top: int | None = 20,
    method: str = "wilcoxon",
    batch_key: str = "batch",
) -> pd.DataFrame:
    """Rank the features of one modality that mark each group of cells.

    A group is a value of ``mdata.obs``, so clusters of a joint latent space can be described by
    every modality. Without `denoised` only cells that have the modality are compared.

    Parameters
    ----------
    mdata
        Multimodal data; not changed.
    groupby
        Column of ``mdata.obs`` with the groups; cells without a value are left out.
    modality
        Modality to rank.
    denoised
        Values to rank instead of the measured ones, cells x features, as
        ``model.get_normalized_expression(modality=...)`` gives for every cell. Ranks become
        clearer and absent cells take part, but neighbouring cells are no longer independent, so
        p-values are far too small: test with ``model.differential_expression``.
    layer
        Layer with measured values that are taken as they are (log-normalised ones). By default
        ``X``, and counts in it are scaled to the median total of a cell and logarithmised.
    groups
        Groups to rank; all by default.
    reference
        Group to compare with, or ``"rest"``: all other cells, also if a group has that name.
    n_top
        Features per group; None for all.
    method
        Of :func:`scanpy.tl.rank_genes_groups`: ``"wilcoxon"`` (rank sums, with ties), ``"t-test"``
        or ``"t-test_overestim_var"``. Its logistic regression gives neither p-values nor changes.
    batch_key
        Column of ``mdata.obs`` with the batch, looked at only if panels are recorded
        (:func:`mumask.pp.panels`): features that a batch did not measure, whose zeros say nothing,
        are then left out. `denoised` ranks them all.

    Returns
    -------
    Data frame ordered by group (in the order of the categories) and rank: ``group``, ``rank`` (from
    1), ``feature``, ``score``, ``log2_fold_change`` (of binary values that of the shares; NaN for
    negative values, which have none), ``pval``, ``pval_adj`` (Benjamini-Hochberg), and the share of
    cells with a value above 0 in the group and outside of it, ``share_in`` and ``share_out``.

    Examples
    --------
    >>> markers = mumask.tl.rank_markers(mdata, "cell_type", "protein", n_top=5)
    >>> markers.groupby("group").size().tolist()
    [5, 5, 5]
    """
    check_is_mosaic(mdata)
    if modality not in mdata.mod:
        raise KeyError(f"Modality {modality!r} is not in the MuData; it has {list(mdata.mod)}.")
    if groupby not in mdata.obs:
        raise KeyError(f"`groupby`: {groupby!r} is not in mdata.obs; it has {list(mdata.obs)}.")
    if method not in METHODS:
        raise ValueError(f"`method`: {method!r} is unknown; choose from {list(METHODS)}.")
    if n_top is not None and n_top < 1:
        raise ValueError(f"`n_top` is {n_top}; ask for at least 1 feature, or None for all.")
    if denoised is not None and layer is not None:
        raise ValueError("Pass either `denoised` or `layer`, not both.")
    reference = category_name(reference)
    labels = mdata.obs[groupby].dropna()
    if denoised is None:
        cells = mdata[modality].obs_names.intersection(labels.index, sort=False)
        measured = measured_by_all(mdata, modality, cells, batch_key)
        shell, binary = _values(mdata[modality], modality, layer, measured)
    else:
        shell, binary = _denoised(mdata, denoised)
    shell = shell[shell.obs_names.isin(labels.index)].copy()
    order = dict.fromkeys(map(category_name, labels.astype("category").cat.categories))
    kept = category_names(labels.loc[shell.obs_names])
    shell.obs["group"] = pd.Categorical(kept, list(order)).remove_unused_categories()
    whose = f"with modality {modality!r}" if denoised is None else "in `denoised`"
    groups, names = _checked(shell, groups, reference, groupby, whose)
    shell = shell[shell.obs["group"].isin(names)].copy()
    options = {"tie_correct": True} if method == "wilcoxon" else {}
    with np.errstate(divide="ignore", invalid="ignore"):
        sc.tl.rank_genes_groups(
            shell,
            "group",
            groups=groups,
            reference=reference,
            method=method,
            n_genes=n_top,
            use_raw=False,
            **options,
        )
    return _table(shell, groups, reference, binary)


def _denoised(mdata: MuData, denoised: pd.DataFrame) -> tuple[AnnData, bool]:
    """Values to compare, logarithms of what can have them, and whether they were 0 and 1."""
    strange = denoised.index.difference(mdata.obs_names)
    if len(strange):
        raise KeyError(f"`denoised`: no cell of the MuData is named {strange[0]!r}.")
    values = denoised.to_numpy(dtype=np.float32)
    if np.isnan(values).any():
        raise ValueError("`denoised` has NaN: leave out cells that had no source modality.")
    shell = AnnData(np.log1p(values) if (values >= 0).all() else values)
    shell.obs_names, shell.var_names = denoised.index, denoised.columns.astype(str)
    return shell, is_binary(values)


def _values(
    adata: AnnData, modality: str, layer: str | None, measured: np.ndarray
) -> tuple[AnnData, bool]:
    """The same of the measured values."""
    if layer is not None and layer not in adata.layers:
        raise KeyError(f"Modality {modality!r} has no layer {layer!r}: {list(adata.layers)}.")
    matrix = matrix_of(adata, layer)
    if matrix is None:
        raise ValueError(f"Modality {modality!r} has no X. Name a layer, or pass `denoised`.")
    if not adata.n_obs:
        raise ValueError(f"Modality {modality!r} has no cells.")
    values = in_memory(matrix).astype(np.float32)
    shell = AnnData(values)
    shell.obs_names, shell.var_names = adata.obs_names, adata.var_names
    if not measured.all():
        logger.warning(
            "Modality %r: %d of %d features were not measured in every batch and are left out.",
            modality,
            (~measured).sum(),
            len(measured),
        )
        if not measured.any():
            raise ValueError(
                f"No feature of modality {modality!r} was measured in every batch: pass `denoised` "
                "values, or the cells of fewer batches."
            )
        shell = shell[:, measured].copy()
        values = shell.X
    if is_binary(values):
        sc.pp.log1p(shell)  # the ranks stay the same, and scanpy does not take them for raw counts
        return shell, True
    stored = values.data if sp.issparse(values) else values
    if layer is not None or not (stored >= 0).all() or (stored != np.round(stored)).any():
        return shell, False
    logger.info("Modality %r: counts are scaled and logarithmised for the ranking.", modality)
    sc.pp.normalize_total(shell)
    sc.pp.log1p(shell)
    return shell, False


def _checked(shell: AnnData, groups, reference: str, groupby: str, whose: str):
    """Groups to rank, and all groups that take part."""
    sizes = shell.obs["group"].value_counts()
    present = list(shell.obs["group"].cat.categories)
    everything = isinstance(groups, str) and groups == "all"  # an array compares by element
    wanted = present if everything else np.atleast_1d(groups).tolist()
    compared = [] if reference == "rest" else [reference]  # a group may be named "rest" too
    wanted = [name for group in wanted if (name := category_name(group)) not in compared]
    for group in [*wanted, *compared]:
        if group not in sizes.index:
            raise ValueError(f"{group!r} is no {groupby!r} of cells {whose}; they are {present}.")
    small = [group for group in wanted if sizes[group] < MIN_CELLS]
    if small and not everything:
        raise ValueError(f"`groups`: {small} have fewer than {MIN_CELLS} cells {whose}.")
    if small:
        logger.warning(
            "Groups %s have fewer than %d cells %s and are left out.", small, MIN_CELLS, whose
        )
    wanted = [group for group in wanted if group not in small]
    if not wanted or len(sizes) < 2:
        raise ValueError(f"`groupby`: {groupby!r} needs two groups with {MIN_CELLS} cells each.")
    names = [*wanted, *compared] if compared else present
    return wanted, names


def _table(shell: AnnData, groups: list[str], reference: str, binary: bool) -> pd.DataFrame:
    result = shell.uns["rank_genes_groups"]
    negative = (shell.X.min() if shell.n_obs else 0) < 0
    above, member = shell.X > 0, shell.obs["group"].to_numpy()  # scanpy's `pts` counts non-zeros
    tables = []
    for group in groups:
        names = pd.Index(result["names"][group])
        where = shell.var_names.get_indexer(names)
        outside = member != group if reference == "rest" else member == reference
        share_in, share_out = (
            np.asarray(above[cells].mean(axis=0)).ravel()[where]
            for cells in (member == group, outside)
        )
        fold = result["logfoldchanges"][group]
        if binary:  # not of scanpy's geometric means, but its constant keeps a share of 0 finite
            fold = np.log2((share_in + 1e-9) / (share_out + 1e-9))
        tables.append(
            pd.DataFrame(
                {
                    "group": group,
                    "rank": np.arange(1, len(names) + 1),
                    "feature": names,
                    "score": result["scores"][group],
                    "log2_fold_change": np.full(len(names), np.nan) if negative else fold,
                    "pval": result["pvals"][group],
                    "pval_adj": result["pvals_adj"][group],
                    "share_in": share_in,
                    "share_out": share_out,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
