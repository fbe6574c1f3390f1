"""True against predicted labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

from mumask.data import category_name, category_names, check_order

from ._utils import finish, names_width, natural_order


def confusion(true, predicted, *, ax=None, cmap="Blues", show=None, save=None):
    """Draw where the cells of each true label went, in percent of the row.

    Parameters
    ----------
    true, predicted
        Labels of the same cells [n], in the same order. Predicted labels that are no true label
        (or clusters, with names of their own) become further columns. Names stand in the
        order of their categories; where that is the alphabet's, numbers count ("8" before "10").
    ax
        Axes to draw into.
    cmap
        Colour map of the share, 0 to 1.
    show, save
        As in scanpy; `save` is the path of a file.

    Returns
    -------
    The matplotlib Axes.

    Examples
    --------
    >>> predicted = model.predict()
    >>> ax = mumask.pl.confusion(mdata.obs.loc[predicted.index, "cell_type"], predicted)
    >>> ax.get_xlabel()
    'predicted'
    """
    check_order(true, predicted)
    true, predicted = _labels(true), _labels(predicted)
    if len(true) != len(predicted):
        raise ValueError(f"{len(true)} true labels but {len(predicted)} predicted ones.")
    table = pd.crosstab(true.to_numpy(), predicted.to_numpy())
    rows = [name for name in true.cat.categories if name in table.index]
    own = set(table.columns)
    columns = [name for name in rows if name in own]
    further = [name for name in predicted.cat.categories if name in own and name not in rows]
    if columns:  # true labels that nothing was given to keep their empty column
        columns = rows + further
    else:  # clusters: put each beside the label most of it is
        columns = sorted(further, key=lambda name: rows.index(table.loc[rows, name].idxmax()))
    counts = table.reindex(index=rows, columns=columns, fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0)

    names = [f"{name}  ({n:,})" for name, n in counts.sum(axis=1).items()]
    if ax is None:
        below = 0.71 * names_width(columns)  # they slant
        left = max(names_width(names), below)
        size = (1.6 + left + 0.5 * len(columns), 0.9 + below + 0.42 * len(rows))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    few, others = max(shares.shape) <= 20, len(ax.texts)
    notes = np.where(shares >= 0.005, (100 * shares).round().astype(int).astype(str), "")
    sns.heatmap(
        shares,
        ax=ax,
        vmin=0,
        vmax=1,
        cmap=cmap,
        annot=notes if few else False,
        fmt="",
        linewidths=0.5 if few else 0,
        linecolor="white",
        cbar_kws={
            "label": "cells of the true label",
            "format": PercentFormatter(1, symbol=" %"),
            "shrink": 0.8,
        },
        xticklabels=True,
        yticklabels=names,
    )
    ax.set_xlabel("predicted")
    ax.set_ylabel("true (cells)")
    plt.setp(ax.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    plt.setp(ax.get_yticklabels(), rotation=0)
    ax.tick_params(length=0)
    agree = (true.astype(str).to_numpy() == predicted.astype(str).to_numpy()).mean()
    if set(rows) & own:
        ax.set_title(f"{100 * agree:.1f} % of {len(true):,} cells agree", fontsize="medium")
    _drop_cut_numbers(ax, ax.texts[others:], counts.shape)
    return finish(ax.figure, ax, show, save)


def _drop_cut_numbers(ax, numbers, shape):
    """Take the numbers out where three digits do not fit into a cell."""
    if not numbers:
        return
    ax.figure.canvas.draw()  # lays out the figure
    inches = ax.get_window_extent().size / ax.figure.dpi
    font = numbers[0].get_fontsize() / 72
    if inches[0] / shape[1] < 2 * font or inches[1] / shape[0] < 1.2 * font:
        for number in numbers:
            number.remove()


def _labels(values) -> pd.Series:
    """Labels as categories of strings, in the order they came with, or in natural order."""
    values = values if isinstance(values, pd.Series) else pd.Series(values)
    if values.isna().any():
        raise ValueError("Some labels are missing (NaN); compare only the cells that have one.")
    order = [category_name(name) for name in natural_order(values)]
    return category_names(values).astype(pd.CategoricalDtype(order))
