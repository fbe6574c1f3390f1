"""Measured against imputed features."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt

from mumask.metrics import feature_correlation

from ._utils import as_table, finish

_COLOR = "#4C72B0"
_MAX_STRIP = 30  # features whose names fit beside their correlations
_MAX_POINTS = 2_000  # above, a cloud of points hides its density


def measured_vs_imputed(
    measured, imputed, features=None, *, log1p=False, n_columns=2, show=None, save=None
):
    """Draw the correlation of every feature, and some features cell by cell.

    Where points would hide each other (more than 2,000 cells), colour says how many cells lie at
    a place: few in violet, many in yellow.

    Parameters
    ----------
    measured, imputed
        Cells x features of the same cells: DataFrame, AnnData, or a dense or sparse matrix. Two
        labelled tables are matched by cell and feature names; only what both have is drawn.
    features
        One or more features to draw cell by cell. By default the best, the upper quarter, the
        median and the worst by Pearson correlation.
    log1p
        Transform both sides by log(1 + x) first, the usual scale for counts.
    n_columns
        Axes per row among the features.
    show, save
        As in scanpy; `save` is the path of a file.

    Returns
    -------
    List of matplotlib Axes: the correlations, then one per feature.

    Examples
    --------
    >>> decoded = model.get_normalized_expression(modality="protein")
    >>> axes = mumask.pl.measured_vs_imputed(mdata["protein"], decoded, ["protein0"], log1p=True)
    >>> axes[0].get_xlabel()
    'Pearson correlation'
    """
    measured, imputed = _matched(measured, imputed)
    if log1p:
        measured, imputed = np.log1p(measured), np.log1p(imputed)
    scores = feature_correlation(imputed, measured, per_feature=True)
    ranked = scores.sort_values("pearson", ascending=False)
    if features is None:
        picks = np.unique(np.round(np.array([0, 0.25, 0.5, 1]) * (len(ranked) - 1)).astype(int))
        features = ranked.index[picks]
    features = [features] if isinstance(features, str) else list(features)
    if not features:
        raise ValueError("`features` is empty; name one or more, or None for a choice of them.")
    if missing := [name for name in features if name not in scores.index]:
        raise KeyError(f"Not in both tables: {missing}.")
    n_columns = min(n_columns, len(features))
    n_rows = max(1, -(-len(features) // n_columns))
    figure = plt.figure(
        figsize=(3.6 + 2.7 * n_columns, max(3.2, 2.75 * n_rows)), layout="constrained"
    )
    grid = figure.add_gridspec(n_rows, n_columns + 1, width_ratios=[1.25, *[1] * n_columns])
    axes = [figure.add_subplot(grid[:, 0])]
    _draw_correlations(axes[0], ranked, marked=features)
    for i, name in enumerate(features):
        ax = figure.add_subplot(grid[i // n_columns, 1 + i % n_columns])
        _draw_feature(ax, measured[name], imputed[name], scores.loc[name], log1p)
        axes.append(ax)
    return finish(figure, axes, show, save)


def _matched(measured, imputed):
    labelled = all(
        hasattr(table, "index") or hasattr(table, "obs") for table in (measured, imputed)
    )
    measured, imputed = as_table(measured), as_table(imputed)
    for table in (measured, imputed):
        if not table.columns.is_unique:
            twice = table.columns[table.columns.duplicated()][0]
            raise ValueError(
                f"A table has several features {twice!r}. Make their names unique first, as "
                "adata.var_names_make_unique() does."
            )
    if labelled:
        cells = measured.index.intersection(imputed.index, sort=False)
        names = measured.columns.intersection(imputed.columns, sort=False)
        if not len(cells) or not len(names):
            raise ValueError("The two tables share no cell or no feature; compare their names.")
        return measured.loc[cells, names], imputed.loc[cells, names]
    if measured.shape != imputed.shape:
        raise ValueError(f"Tables without names must match: {measured.shape}, {imputed.shape}.")
    names = measured if hasattr(measured, "index") else imputed
    return measured, imputed.set_axis(names.columns, axis=1).set_axis(names.index, axis=0)


def _draw_correlations(ax, ranked, marked):
    """Ranked correlations: named bars for few features, a curve for many."""
    values = ranked["pearson"].to_numpy()
    median, ink = float(np.median(values)), plt.rcParams["text.color"]
    if len(ranked) <= _MAX_STRIP:
        at = np.arange(len(ranked))
        ax.barh(at, values, color=_COLOR, alpha=0.85, height=0.75)
        ax.set_yticks(at, ranked.index, fontsize=9 if len(ranked) <= 20 else 7)
        ax.set_ylim(len(ranked) - 0.4, -0.6)
        for tick in ax.get_yticklabels():
            if tick.get_text() in set(map(str, marked)):
                tick.set_fontweight("bold")
        ax.axvline(median, color=ink, lw=1, ls="--")
        ax.set_xlabel("Pearson correlation")
        ax.set_xlim(min(0, values.min() - 0.02), 1)
    else:
        ax.plot(np.arange(1, len(ranked) + 1), values, color=_COLOR, lw=2)
        where = ranked.index.get_indexer(marked)
        ax.plot(where + 1, values[where], "o", color=ink, ms=4, label="shown cell by cell")
        ax.axhline(median, color=ink, lw=1, ls="--")
        ax.set_xlabel("features, ranked")
        ax.set_ylabel("Pearson correlation")
        ax.set_ylim(min(0, values.min() - 0.02), 1)
        ax.legend(frameon=False, fontsize="small", handletextpad=0.2)
    ax.set_title(f"{len(ranked):,} features, median r = {median:.2f}", fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)


def _draw_feature(ax, measured, imputed, score, log1p):
    x, y = measured.to_numpy(dtype=float), imputed.to_numpy(dtype=float)
    if len(x) > _MAX_POINTS:
        ax.hexbin(x, y, gridsize=40, bins="log", cmap="viridis", mincnt=1, linewidths=0.1)
    else:
        ax.plot(x, y, "o", ms=3, alpha=0.35, mew=0, color=_COLOR, rasterized=True)
    ax.set_title(f"{measured.name}\nr = {score['pearson']:.2f}, ρ = {score['spearman']:.2f}")
    ax.title.set_fontsize("medium")
    ax.set_box_aspect(1)
    scale = " (log1p)" if log1p else ""
    ax.set_xlabel("measured" + scale)
    ax.set_ylabel("imputed" + scale)
    ax.spines[["top", "right"]].set_visible(False)
