"""Peaks summed over genes or windows of the genome."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mumask.data import PANEL_KEY, native, recorded_panels

from ._mudata import get_modality, replace_modalities, values_of

logger = logging.getLogger("mumask")

# chr1:100-200, chr1_100_200, chr1-100-200
PEAK_NAME = r"^(?P<chromosome>.+)[:_-](?P<start>\d+)[_-](?P<end>\d+)$"
COLUMNS = ["chromosome", "start", "end"]


def gene_activity(
    mdata: MuData,
    genes: pd.DataFrame | int,
    modality: str = "atac",
    *,
    upstream: int = 2000,
    layer: str | None = None,
    to_modality: str = "activity",
) -> None:
    """Add gene activity, the number of open peaks in and before each gene, as a modality.

    Parameters
    ----------
    mdata
        Multimodal data, changed in place: a modality of counts is added for the cells that have
        `modality`.
    genes
        Annotation of the same genome: a row per gene with the columns ``chromosome``, ``start``,
        ``end`` and, if `upstream` is to know where a gene begins, ``strand`` (``"+"`` or ``"-"``).
        Or a number: windows of that many bases side by side, where no annotation is at hand.
    modality
        Modality with peaks. Their places are the columns ``chromosome``, ``start`` and ``end`` of
        ``var``, or their names, like ``chr1:100-200`` or ``chr1_100_200``.
    upstream
        Bases before a gene that belong to it.
    layer
        Layer with counts or binary values; ``X`` by default.
    to_modality
        Key of the new modality.

    Raises
    ------
    ValueError
        If peaks have no place, or no gene has a peak.

    Notes
    -----
    A peak counts for every gene it overlaps; genes without any peak are left out. Values of the
    new modality are sums of peaks: it brings another view of them, no new measurement. Where panels
    are recorded, a batch measured the genes of which it measured a peak. Cells
    without a peak in any gene stay as empty rows, which a model refuses: drop them from the new
    modality first.

    Examples
    --------
    >>> atac = mdata["atac"]
    >>> atac.var_names = [f"chr1:{500 * i}-{500 * i + 200}" for i in range(atac.n_vars)]
    >>> genes = pd.DataFrame(
    ...     {
    ...         "chromosome": "chr1",
    ...         "start": [4000, 9000],
    ...         "end": [6000, 9800],
    ...         "strand": ["+", "-"],
    ...     },
    ...     index=["A", "B"],
    ... )
    >>> mumask.pp.gene_activity(mdata, genes, upstream=1000)
    >>> mdata["activity"].var
       chromosome  start   end strand  n_peaks
    A        chr1   4000  6000      +        6
    B        chr1   9000  9800      -        4
    """
    adata = get_modality(mdata, modality, layer)
    if to_modality in mdata.mod:
        raise ValueError(f"`to_modality`: the MuData already has a modality {to_modality!r}.")
    peaks = _places(adata, modality)
    if isinstance(genes, int | np.integer):
        genes, upstream = _windows(peaks, int(genes)), 0
    if missing := [column for column in COLUMNS if column not in genes]:
        raise KeyError(f"`genes` lacks the columns {missing}; it has {list(genes)}.")
    if not genes.index.is_unique:
        raise ValueError(f"`genes` names {genes.index[genes.index.duplicated()][0]!r} twice.")
    overlap = _overlap(peaks, _numbered(genes, "`genes`"), upstream)
    n_peaks = np.asarray(overlap.sum(axis=0)).ravel().astype(int)
    if not n_peaks.any():
        raise ValueError(
            "No gene has a peak. Do the chromosomes have the same names? Peaks: "
            f"{peaks['chromosome'].iloc[0]!r}, genes: {genes['chromosome'].iloc[0]!r}."
        )
    kept = n_peaks > 0
    values = sparse.csr_matrix(native(values_of(adata, layer))) @ overlap[:, kept]
    activity = AnnData(
        sparse.csr_matrix(values, dtype=np.float32),
        obs=pd.DataFrame(index=adata.obs_names),
        var=genes[kept].assign(n_peaks=n_peaks[kept]),
    )
    activity.var.index = activity.var.index.astype(str)
    if recorded := recorded_panels(adata, adata.var_names):
        activity.varm[PANEL_KEY] = pd.DataFrame(
            {batch: panel @ overlap[:, kept] > 0 for batch, panel in recorded.items()},
            index=activity.var_names,
        )
    replace_modalities(mdata, {to_modality: activity})
    logger.info(
        "Modality %r: %d of %d regions have a peak; %d of %d peaks lie in one.",
        to_modality, kept.sum(), len(kept), (overlap.getnnz(axis=1) > 0).sum(), len(peaks),
    )  # fmt: skip


def _places(adata: AnnData, modality: str) -> pd.DataFrame:
    """Chromosome, start and end of every peak."""
    if set(COLUMNS) <= set(adata.var):
        return _numbered(adata.var[COLUMNS], f"Modality {modality!r}: var")
    places = adata.var_names.to_series().astype(str).str.extract(PEAK_NAME)
    if (odd := places["start"].isna()).any():
        raise ValueError(
            f"Modality {modality!r}: the name {adata.var_names[odd.to_numpy()][0]!r} is no place "
            "like chr1:100-200. Rename the peaks, or add the columns chromosome, start and end to "
            "their var."
        )
    return places.astype({"start": int, "end": int})


def _numbered(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Places whose chromosomes are text and whose ends are numbers."""
    table = table.assign(chromosome=table["chromosome"].astype(str))
    for column in ("start", "end"):
        numbers = pd.to_numeric(table[column], errors="coerce")
        if (odd := numbers.isna().to_numpy()).any():
            raise ValueError(
                f"{where} has no number in {column!r} for {table.index[odd][0]!r} and {odd.sum() - 1} "
                "others. Complete these places or drop their rows."
            )
        table[column] = numbers.astype(int)
    return table


def _windows(peaks: pd.DataFrame, width: int) -> pd.DataFrame:
    """Windows of `width` bases up to the last peak of every chromosome."""
    if width < 1:
        raise ValueError(f"`genes`: windows of {width} bases; give a positive number.")
    tables = []
    for chromosome, ends in peaks.groupby("chromosome", sort=False)["end"]:
        start = np.arange(0, ends.max(), width)
        tables.append(
            pd.DataFrame({"chromosome": chromosome, "start": start, "end": start + width})
        )
    table = pd.concat(tables, ignore_index=True)
    names = [f"{c}:{s}-{e}" for c, s, e in zip(*table[COLUMNS].to_numpy().T, strict=True)]
    return table.set_axis(names, axis=0)


def _overlap(peaks: pd.DataFrame, genes: pd.DataFrame, upstream: int) -> sparse.csr_matrix:
    """Whether a peak lies in a gene or before it, peaks x genes."""
    minus = (
        genes["strand"].eq("-").fillna(False).to_numpy(bool)
        if "strand" in genes
        else np.zeros(len(genes), bool)
    )
    start = genes["start"].to_numpy() - np.where(minus, 0, upstream)
    end = genes["end"].to_numpy() + np.where(minus, upstream, 0)
    rows, columns = [np.empty(0, int)], [np.empty(0, int)]
    chromosomes = genes["chromosome"].to_numpy()
    first, last = peaks["start"].to_numpy(), peaks["end"].to_numpy()
    for chromosome, own in peaks.groupby(
        peaks["chromosome"].to_numpy(), sort=False
    ).indices.items():
        there = np.flatnonzero(chromosomes == chromosome)
        own = own[np.argsort(first[own])]
        # what overlaps begins before the end of a gene, and not farther before its start than the
        # longest peak reaches: a range of the sorted peaks, so not each is compared with each
        longest = (last[own] - first[own]).max()
        low = np.searchsorted(first[own], start[there] - longest, side="right")
        n = np.maximum(np.searchsorted(first[own], end[there]) - low, 0)
        gene = np.repeat(there, n)
        peak = own[np.arange(n.sum()) + np.repeat(low - np.cumsum(n) + n, n)]
        fits = (first[peak] < end[gene]) & (last[peak] > start[gene])
        rows.append(peak[fits])
        columns.append(gene[fits])
    rows, columns = np.concatenate(rows), np.concatenate(columns)
    ones = np.ones(len(rows), np.float32)
    return sparse.csr_matrix((ones, (rows, columns)), shape=(len(peaks), len(genes)))
