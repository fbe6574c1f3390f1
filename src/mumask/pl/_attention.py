"""Attention of the features of one modality over those of another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap

from ._utils import finish, natural_order

# What "nothing special" is: even attention, or no departure from the baseline.
_CENTRE = {"weight": 1.0, "zscore": 0.0}
# In inches: the side of a cell and the least of it, what all heat maps may take, the colour bar.
_CELL, _LEAST_CELL, _WIDTH, _HEIGHT, _BAR = 0.22, 0.12, 16.0, 20.0, 4.0
_UNKNOWN = "0.75"  # of what was not measured; white is the centre
_LONG = 20  # letters of two names that fit into one label


def attention(
    table,
    value="weight",
    *,
    n_queries=30,
    n_keys=30,
    n_groups=12,
    n_columns=3,
    show=None,
    save=None,
):
    """Draw attention between features as heat maps, one for each group of cells.

    Attention is between tokens. Features that share one have the same values, so they are drawn
    as one row or column, named after the first of them ("CD3D, CD3E + 248 more").

    Parameters
    ----------
    table
        The data frame of :meth:`mumask.CrossAttentionMAE.get_attention`.
    value
        Column to draw: ``"weight"`` (1 = attention spread evenly) or ``"zscore"`` (0 = as the
        baseline); both get a diverging colour map around that value. Any other column is drawn
        from 0 to its largest value.
    n_queries, n_keys
        Rows and columns to draw: those that depart most from the centre in any group.
    n_groups
        Groups to draw: those with the largest departure.
    n_columns
        Heat maps per row of the figure.
    show, save
        As in scanpy; `save` is the path of a file.

    Returns
    -------
    List of matplotlib Axes, one per group drawn. All have the same features in the same order and
    one colour scale: the strongest keys first, each query beside the key that it attends to most.
    What no cell of a group has measured is grey.

    Raises
    ------
    KeyError
        If the table has no column `value`.
    ValueError
        If there is nothing to draw, or pairs of features are missing.

    Examples
    --------
    >>> table = model.get_attention("protein", "rna", groupby="cell_type", n_permutations=0)
    >>> axes = mumask.pl.attention(table, n_keys=20)
    >>> [ax.get_title() for ax in axes] == list(mdata.obs["cell_type"].cat.categories)
    True
    """
    matrices, centre = _matrices(table, value), _CENTRE.get(value)
    names, n_all = list(matrices), len(matrices)
    values = np.stack([matrix.to_numpy(dtype=float) for matrix in matrices.values()])
    departure = np.nan_to_num(np.abs(values - (centre or 0.0)))
    if n_all > n_groups:
        strongest = np.sort(np.argsort(-departure.max((1, 2)), kind="stable")[:n_groups])
        names, values = [names[g] for g in strongest], values[strongest]
        departure = departure[strongest]
    extent = departure.max(0)
    keys = np.argsort(-extent.max(0), kind="stable")[:n_keys]
    queries = np.argsort(-extent.max(1), kind="stable")[:n_queries]
    shown = np.ix_(queries, keys)
    mean = np.nan_to_num(values, nan=centre or 0.0).mean(0)
    queries = queries[np.argsort(mean[shown].argmax(1), kind="stable")]
    # One pair of tokens with a z-score of a hundred would leave all others white.
    most = 0.99 if value == "zscore" else 1.0
    reach = float(np.quantile(departure[:, shown[0], shown[1]], most)) or 1.0
    scale = {"vmin": 0, "vmax": reach, "cmap": "Blues"}
    if centre is not None:
        low = max(centre - reach, 0.0) if centre else -reach  # a weight is never negative
        part = np.linspace(0.5 + 0.5 * (low - centre) / reach, 1, 256)  # white is the centre
        colors = ListedColormap(sns.color_palette("vlag", as_cmap=True)(part))
        scale = {"vmin": low, "vmax": centre + reach, "cmap": colors}

    drawn = [matrices[name].iloc[queries, keys] for name in names]
    figure, grid, font = _grid(drawn, min(n_columns, len(drawn)))
    axes = list(grid.flat[: len(drawn)])
    for ax, name, matrix in zip(axes, names, drawn, strict=True):
        # not seaborn's heatmap, which lays out the whole figure for every one
        ax.pcolormesh(matrix.to_numpy(), rasterized=True, **scale)
        ax.set_facecolor(_UNKNOWN)
        ax.set_title("" if name is None else str(name))
        ax.set_xticks(np.arange(len(keys)) + 0.5, matrix.columns)
        ax.set_yticks(np.arange(len(queries)) + 0.5, matrix.index)
        ax.set_ylim(len(queries), 0)
        ax.spines[:].set_visible(False)
        ax.grid(False)
        left, lowest = ax in grid[:, 0], ax in axes[-grid.shape[1] :]
        if left:
            ax.set_ylabel("who looks (query)")
        if lowest:
            ax.set_xlabel("what is looked at (key)")
        ax.tick_params(length=0, labelsize=font)
        # sharing hides the names of a column whose lower place is empty
        ax.tick_params(axis="x", labelrotation=90, labelbottom=lowest)
        ax.tick_params(axis="y", labelrotation=0, labelleft=left)
    bar = figure.colorbar(
        axes[0].collections[0],
        ax=axes,
        shrink=min(0.8, _BAR / figure.get_figheight()),
        aspect=20,
        fraction=0.3 / figure.get_figwidth(),
        extend="both" if most < 1 else "neither",
    )
    note = {"weight": "weight (1: spread evenly)", "zscore": "z-score (0: as the baseline)"}
    bar.set_label("attention" if centre is None else f"attention, {note[value]}")
    if len(drawn) < n_all:
        figure.suptitle(f"{len(drawn)} of {n_all} groups, those that stand out most")
    return finish(figure, axes, show, save)


def _grid(drawn: list[pd.DataFrame], n_columns: int):
    """Figure, Axes for the heat maps, and size of their names; cells shrink as maps get many."""
    n_rows = -(-len(drawn) // n_columns)
    n_queries, n_keys = drawn[0].shape
    cell = min(_CELL, _WIDTH / (n_columns * n_keys), _HEIGHT / (n_rows * n_queries))
    cell = max(cell, _LEAST_CELL)
    font = min(8.5, 0.75 * 72 * cell)
    rows, columns = (0.6 * font / 72 * max(map(len, map(str, axis))) for axis in drawn[0].axes)
    # names below the last row, and below the one before where the last is not full
    below = columns * (1 + (n_rows > 1 and len(drawn) % n_columns > 0)) + 0.4
    width = n_columns * max(1.5, cell * n_keys + 0.2) + rows + 1.6
    height = n_rows * max(1.2, cell * n_queries + 0.4) + below + 0.3
    figure, grid = plt.subplots(
        n_rows,
        n_columns,
        figsize=(width, height),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for ax in grid.flat[len(drawn) :]:
        ax.remove()
    return figure, grid, font


def _matrices(table: pd.DataFrame, value: str) -> dict[object, pd.DataFrame]:
    """Matrix queries x keys, a row and a column per token, by group (None: there are no groups)."""
    if value not in table:
        raise KeyError(f"The table has no {value!r}; it has {list(table)}.")
    parts, order = {None: table}, [None]
    if "group" in table:
        parts = dict(list(table.groupby("group", observed=True)))
        order = [name for name in natural_order(table["group"]) if name in parts]
    if table[value].isna().all():
        raise ValueError("There is no attention to draw: the table is empty, or all of it is NaN.")
    tokens = ["query_token", "key_token"]
    names = [_token_names(table, side) for side in ("query", "key")]
    matrices = {}
    for name in order:  # in the order of the modalities' features
        pairs = parts[name].drop_duplicates(tokens).set_index(tokens)[value]
        matrix = pairs.unstack("key_token").reindex(index=names[0].index, columns=names[1].index)
        if len(pairs) < matrix.size:
            raise ValueError(f"The attention of {name!r} lacks pairs of features: pass all of it.")
        matrices[name] = matrix.set_axis(names[0], axis=0).set_axis(names[1], axis=1)
    return matrices


def _token_names(table: pd.DataFrame, side: str) -> pd.Series:
    """Name of every token, those with the first features first."""
    features = table.drop_duplicates(side)
    by_token = features[side].astype(str).groupby(features[f"{side}_token"], sort=False)
    return by_token.agg(lambda members: _token_name(list(members)))


def _token_name(features: list[str]) -> str:
    """Two features and the number of others, or one where names are long, as those of peaks."""
    named = features[: 1 if len(", ".join(features[:2])) > _LONG else 2]
    others = len(features) - len(named)
    return ", ".join(named) + (f" + {others} more" if others else "")
