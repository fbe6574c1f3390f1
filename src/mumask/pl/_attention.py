"""Attention of the features of one modality over those of another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt

from ._utils import finish

# What "nothing special" is: even attention, or no departure from the baseline.
_CENTRE = {"weight": 1.0, "zscore": 0.0}


def attention(table, value="weight", *, n_queries=30, n_keys=30, n_columns=3, show=None, save=None):
    """Draw attention between features as heat maps, one for each group of cells.

    Parameters
    ----------
    table
        The data frame of :meth:`mumask.CrossAttentionMAE.get_attention`, with its column
        ``group`` if it has one. Or a matrix queries x keys: a DataFrame, or a dict group ->
        DataFrame with the same features.
    value
        Column to draw: ``"weight"`` (1 = attention spread evenly) or ``"zscore"`` (0 = as the
        baseline); both get a diverging colour map around that value. Any other column, and a
        matrix, is drawn from 0 to its largest value.
    n_queries, n_keys
        Rows and columns to draw: those that depart most from the centre in any group.
    n_columns
        Heat maps per row of the figure.
    show, save
        As in scanpy; `save` is the path of a file.

    Returns
    -------
    List of matplotlib Axes, one per group. All have the same features in the same order and one
    colour scale: the strongest keys first, each query beside the key that it attends to most.

    Raises
    ------
    KeyError
        If the table has no column `value`.
    ValueError
        If there is nothing to draw, or groups have different features.

    Examples
    --------
    >>> table = model.get_attention("protein", "rna", groupby="cell_type", n_permutations=0)
    >>> axes = mumask.pl.attention(table, n_keys=20)
    >>> [ax.get_title() for ax in axes] == list(mdata.obs["cell_type"].cat.categories)
    True
    """
    matrices, centre = _matrices(table, value)
    values = np.stack([matrix.to_numpy(dtype=float) for matrix in matrices.values()])
    extent = np.abs(values - (centre or 0.0)).max(0)
    keys = np.argsort(-extent.max(0), kind="stable")[:n_keys]
    queries = np.argsort(-extent.max(1), kind="stable")[:n_queries]
    shown = np.ix_(queries, keys)
    queries = queries[np.argsort(values.mean(0)[shown].argmax(1), kind="stable")]
    reach = float(extent[shown].max()) or 1.0
    scale = {"vmin": 0, "vmax": reach, "cmap": "Blues"}
    if centre is not None:
        low = max(centre - reach, 0.0) if centre else -reach  # a weight is never negative
        scale = {"vmin": low, "vmax": centre + reach, "center": centre, "cmap": "vlag"}

    n_columns = min(n_columns, len(matrices))
    n_rows = -(-len(matrices) // n_columns)
    width, height = 0.9 + 0.22 * len(keys), 0.9 + 0.22 * len(queries)
    figure, grid = plt.subplots(
        n_rows,
        n_columns,
        figsize=(max(3.0, width) * n_columns + 1.2, max(2.4, height) * n_rows),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for ax in grid.flat[len(matrices) :]:
        ax.remove()
    axes = list(grid.flat[: len(matrices)])
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        sns.heatmap(
            matrix.iloc[queries, keys],
            ax=ax,
            cbar=False,
            xticklabels=True,
            yticklabels=True,
            **scale,
        )
        ax.set(title="" if name is None else str(name), xlabel="", ylabel="")
        if ax in grid[:, 0]:
            ax.set_ylabel("who looks (query)")
        # sharing hides the names of a column whose lower place is empty
        ax.tick_params(
            axis="x",
            labelrotation=90,
            length=0,
            labelsize="small",
            labelbottom=ax in axes[-n_columns:],
        )
        if ax in axes[-n_columns:]:
            ax.set_xlabel("what is looked at (key)")
        ax.tick_params(
            axis="y", labelrotation=0, length=0, labelsize="small", labelleft=ax in grid[:, 0]
        )
    bar = figure.colorbar(axes[0].collections[0], ax=axes, shrink=0.8, aspect=30)
    note = {"weight": "weight (1: spread evenly)", "zscore": "z-score (0: as the baseline)"}
    bar.set_label("attention" if centre is None else f"attention, {note[value]}")
    return finish(figure, axes, show, save)


def _matrices(table, value: str) -> tuple[dict[object, pd.DataFrame], float | None]:
    """Matrix queries x keys by group (None: there are no groups), and the value of "no more"."""
    centre = None
    if isinstance(table, pd.DataFrame) and {"query", "key"} <= set(table):
        if value not in table:
            raise KeyError(f"The table has no {value!r}; it has {list(table)}.")
        centre = _CENTRE.get(value)
        parts = table.groupby("group", observed=True) if "group" in table else [(None, table)]
        # one row per pair, in the order of the modalities' features
        matrices = {
            name: part.set_index(["query", "key"])[value].unstack("key", sort=False).astype(float)
            for name, part in parts
        }
    else:
        matrices = dict(table) if isinstance(table, Mapping) else {None: table}
    if not matrices or any(matrix.empty for matrix in matrices.values()):
        raise ValueError("There is no attention to draw: no group, or a table without features.")
    first = next(iter(matrices.values()))
    for name, matrix in matrices.items():
        if set(matrix.index) != set(first.index) or set(matrix.columns) != set(first.columns):
            raise ValueError(f"Group {name!r} has other features than the first one.")
        if matrix.isna().to_numpy().any():
            raise ValueError(f"The attention of {name!r} has NaN.")
    return {
        name: matrix.loc[first.index, first.columns] for name, matrix in matrices.items()
    }, centre
