"""How well batches (or modalities) mix in a latent space and how well cell types stay apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.special import xlogy
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from mumask.data import category_names

CHUNK = 1000  # cells whose distances to all others are held at a time


def check_latent(latent, *labels) -> list[np.ndarray]:
    """Latent [n, d] as float array and its label vectors [n] as arrays of equal length."""
    if hasattr(latent, "obsm"):  # numpy would walk through all of an AnnData or MuData
        raise TypeError(
            f"Expected an array, cells x dimensions, got {type(latent).__name__}. Pass the "
            "representation to score: mdata.obsm['X_mumask']."
        )
    latent = np.asarray(latent)
    if latent.ndim != 2:
        raise ValueError(f"The latent must be cells x dimensions, got shape {latent.shape}.")
    if not np.isfinite(latent).all():
        raise ValueError("The latent has NaN or infinite values; drop those cells first.")
    return [latent, *check_labels(len(latent), *labels)]


def check_labels(n_cells: int, *labels) -> list[np.ndarray]:
    """Label vectors [n] as arrays of equal length, without gaps."""
    columns = [np.asarray(column) for column in labels]
    for given, column in zip(labels, columns, strict=True):
        if column.shape != (n_cells,):
            raise ValueError(f"Labels of shape {column.shape} do not fit {n_cells} cells.")
        # as objects, because beside text a NaN of a list becomes the text "nan"
        if pd.isna(np.asarray(given, dtype=object)).any():
            raise ValueError("Some labels are missing (NaN); score only the cells that have one.")
    # objects may be text beside numbers, which nothing can sort
    return [category_names(c).to_numpy() if c.dtype == object else c for c in columns]


def batch_entropy_mixing(
    latent,
    batch,
    n_neighbors: int = 100,
    n_pools: int | None = 100,
    n_samples_per_pool: int = 100,
    *,
    scaled: bool = False,
    seed: int = 0,
) -> float:
    r"""Batch entropy mixing score: how even the batches are around a cell; higher is better.

    For a cell, :math:`p_b` is the share of batch :math:`b` among its `n_neighbors` nearest other
    cells and :math:`P_b` its share among all cells. With
    :math:`q_b = (p_b / P_b) / \sum_c p_c / P_c`, the cell's score is
    :math:`-\sum_b q_b \ln q_b / \log_2 B` for :math:`B` batches. It is averaged over `n_pools`
    draws of `n_samples_per_pool` cells.

    The entropy is in nats but divided by a number of bits, so perfect mixing scores
    :math:`\ln 2 \approx 0.693`, not 1. Published figures are on that scale.

    Parameters
    ----------
    latent
        Cells x dimensions.
    batch
        Batch of every cell.
    n_neighbors
        Neighbours per cell, the cell itself not counted; at most the number of other cells.
    n_pools
        Number of draws; None averages over every cell once, without chance.
    n_samples_per_pool
        Cells per draw, with replacement.
    scaled
        Divide by ln 2, so that the score lies in 0 (separated) to 1 (even).
    seed
        Seed of the draws.

    Raises
    ------
    ValueError
        With fewer than two batches, or without neighbours.

    References
    ----------
    uniPort (Cao et al., Nature Communications 2022), after SCALEX (Xiong et al., Nature
    Communications 2022); the score of inClust+ (Wang et al., BMC Bioinformatics 2024).

    Examples
    --------
    >>> latent = rng.normal(size=(200, 5))
    >>> batch = np.repeat(["a", "b"], 100)
    >>> mumask.metrics.batch_entropy_mixing(latent, batch, scaled=True) > 0.95
    True
    >>> latent[batch == "b"] += 50
    >>> mumask.metrics.batch_entropy_mixing(latent, batch, n_neighbors=30, scaled=True)
    0.0
    """
    if n_neighbors < 1:
        raise ValueError(f"`n_neighbors` is {n_neighbors}; at least 1 neighbour is needed.")
    latent, batch = check_latent(latent, batch)
    names, codes = np.unique(batch, return_inverse=True)
    if len(names) < 2:
        raise ValueError("Batch mixing needs at least two batches.")
    n = len(latent)
    if n_pools is None:
        drawn = np.ones(n)
    else:
        draws = np.random.default_rng(seed).integers(n, size=n_pools * n_samples_per_pool)
        drawn = np.bincount(draws, minlength=n)
    cells = np.flatnonzero(drawn)
    near = _neighbours(latent, cells, min(n_neighbors, n - 1))
    shares = np.stack([(codes[near] == b).mean(1) for b in range(len(names))], axis=1)
    shares /= np.bincount(codes) / n
    shares /= shares.sum(1, keepdims=True)
    entropy = -xlogy(shares, shares).sum(1)
    score = np.average(entropy, weights=drawn[cells]) / np.log2(len(names))
    return float(score / np.log(2)) if scaled else float(score)


def _neighbours(latent, cells, k):
    """Indices [len(cells), k] of the nearest cells other than the cell itself."""
    near = (
        NearestNeighbors(n_neighbors=k + 1)
        .fit(latent)
        .kneighbors(latent[cells], return_distance=False)
    )
    # among duplicates a cell need not come first, or at all: then the farthest one goes
    own = near == cells[:, None]
    own[~own.any(1), -1] = True
    return near[~own].reshape(len(cells), k)


def silhouette(latent, labels, *, scaled: bool = True) -> float:
    """Mean silhouette width of `labels`, as ``(s + 1) / 2`` in 0 to 1 unless `scaled` is False.

    Above 0.5 cells lie nearer to their own label than to the next one. This is uniPort's
    silhouette coefficient, the one inClust+ reports.

    Parameters
    ----------
    latent
        Cells x dimensions.
    labels
        Label of every cell.
    scaled
        Return ``(s + 1) / 2`` instead of ``s``.

    Examples
    --------
    >>> mumask.metrics.silhouette(mdata.obsm["X_true"], mdata.obs["cell_type"]) > 0.5
    True
    """
    latent, labels = check_latent(latent, labels)
    width = float(silhouette_score(latent, labels))
    return (width + 1) / 2 if scaled else width


def batch_asw(latent, labels, batch) -> float:
    """Batch average silhouette width: 1 where batches are indistinguishable within a label.

    The mean over labels of ``1 - |s|``, with ``s`` the silhouette of the batches among the cells
    of one label (scIB: Luecken et al., Nature Methods 2022; computed by scib-metrics).

    Parameters
    ----------
    latent
        Cells x dimensions.
    labels
        Label of every cell.
    batch
        Batch of every cell.

    Raises
    ------
    ValueError
        If no label has cells in two batches, more than one in one of them.

    Examples
    --------
    >>> latent, labels, batch = mdata.obsm["X_true"], mdata.obs["cell_type"], mdata.obs["batch"]
    >>> 0 < mumask.metrics.batch_asw(latent, labels, batch) <= 1
    True
    """
    latent, labels, batch = check_latent(latent, labels, batch)
    from scib_metrics import silhouette_batch  # imports jax, which takes a second

    by_label = pd.Series(batch).groupby(labels.astype(str))
    if not by_label.nunique().between(2, by_label.size() - 1).any():  # as a silhouette needs
        raise ValueError(
            "Batch ASW needs a label with cells in at least two batches, and several in one."
        )
    return float(silhouette_batch(latent.astype(np.float32), labels, batch))


def graph_connectivity(latent, labels, n_neighbors: int = 15) -> float:
    """Mean share of a label's cells in the largest component of its own neighbour graph.

    1 means that every label stays in one piece (scIB: Luecken et al., Nature Methods 2022). The
    graph leads from a cell to its nearest neighbours, and a component is strongly connected:
    every cell of it can be reached from every other, as scib-metrics computes it. A cell that
    none of its label has as a neighbour so counts as apart. scIB itself takes a symmetric graph,
    which scores higher.

    Parameters
    ----------
    latent
        Cells x dimensions.
    labels
        Label of every cell.
    n_neighbors
        Neighbours of a cell, itself among them.

    Examples
    --------
    >>> 0 < mumask.metrics.graph_connectivity(mdata.obsm["X_true"], mdata.obs["cell_type"]) <= 1
    True
    """
    latent, labels = check_latent(latent, labels)
    from scib_metrics import graph_connectivity as connectivity  # see above
    from scib_metrics.nearest_neighbors import NeighborsResults

    k = min(n_neighbors, len(latent))
    distances, indices = NearestNeighbors(n_neighbors=k).fit(latent).kneighbors(latent)
    return float(connectivity(NeighborsResults(indices=indices, distances=distances), labels))


def foscttm(latent_a, latent_b) -> float:
    """Fraction of samples closer than the true match: 0 is best, 0.5 is chance.

    Row i of both latents [n, d] is the same cell, seen through two modalities. The fraction of
    other cells of the second that are nearer than the match, averaged over the cells and over
    both directions (Liu et al., WABI 2019). One that is as near counts as half, so that a latent
    of a single point is no better than chance.

    Parameters
    ----------
    latent_a, latent_b
        Cells x dimensions, the same cells in the same order.

    Examples
    --------
    >>> latent = rng.normal(size=(50, 5))
    >>> mumask.metrics.foscttm(latent, latent)
    0.0
    """
    latent_a, latent_b = check_latent(latent_a)[0], check_latent(latent_b)[0]
    if latent_a.shape != latent_b.shape or len(latent_a) < 2:
        raise ValueError(
            f"Both latents need the same cells (two or more) and dimensions, "
            f"got {latent_a.shape} and {latent_b.shape}."
        )
    n, nearer = len(latent_a), 0
    for one, other in ((latent_a, latent_b), (latent_b, latent_a)):
        for start in range(0, n, CHUNK):
            distances = cdist(one[start : start + CHUNK], other)
            rows = np.arange(len(distances))
            match = distances[rows, rows + start][:, None]
            as_near = (distances == match).sum() - len(rows)  # the match itself is none
            nearer += (distances < match).sum() + as_near / 2
    return float(nearer / (2 * n * (n - 1)))
