"""How sure the labels are: by cell type, or cell by cell on an embedding."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt

from mumask.data import category_name, category_names

from ._utils import category_palette, finish, latent_of, names_width

_MOST = 2.0  # novelty is unbounded; whatever is greater is drawn here
_COLOR_MOST = 1.0  # beyond the farthest known cell; colours tell apart what lies below
_KNOWN_SHARE = 0.99  # annotate()'s default


def uncertainty(
    data,
    groupby="mumask_label",
    keys=("mumask_uncertainty", "mumask_novelty"),
    *,
    basis=None,
    new_type="mumask_new_type",
    show=None,
    save=None,
):
    """Draw the uncertainty and the novelty of labels: violins by type, or cells on an embedding.

    Parameters
    ----------
    data
        The table of ``annotate()``, or a MuData or AnnData whose ``obs`` has its columns.
    groupby
        Column with the types; one violin each, the type with the highest median on top, in the
        colours of ``data.uns[f"{groupby}_colors"]`` where they are set, as in scanpy.
    keys
        Columns with the values to draw; one Axes each. Novelty is unbounded beyond 1: violins end
        at 2, and the colours of an embedding run from 0 to 1.
    basis
        Two coordinates per cell, or a key of ``data.obsm`` (``"X_umap"``): draws cells instead of
        violins. Cells flagged in `new_type` get a rim.
    new_type
        Boolean column; in violins the share of flagged cells stands beside each type, and a line
        in the novelty shows where they begin: at 0.99, or where the flags say. None, or a column
        that is not there, leaves the shares out.
    show, save
        As in scanpy; `save` is the path of a file.

    Returns
    -------
    List of matplotlib Axes, one per key. Cells with a missing value are left out.

    Raises
    ------
    KeyError
        If a column or the embedding is not there.
    ValueError
        If `keys` is empty, or the embedding has not two coordinates for every cell.

    Examples
    --------
    >>> axes = mumask.pl.uncertainty(model.annotate(), keys=["mumask_uncertainty"])
    >>> axes[0].get_xlabel()
    'uncertainty'
    """
    obs = data if isinstance(data, pd.DataFrame) else data.obs
    keys = [keys] if isinstance(keys, str) else list(keys)
    if not keys:
        raise ValueError("`keys` is empty; name one or more columns to draw.")
    needed = keys if basis is not None else [groupby, *keys]
    if missing := [key for key in needed if key not in obs]:
        raise KeyError(f"Not in obs: {missing}; it has {list(obs)}. Join model.annotate() to it.")
    flagged = None
    if new_type is not None and new_type in obs:
        flagged = obs[new_type].fillna(False).to_numpy(dtype=bool)
    if basis is not None:
        return _on_embedding(data, obs, keys, basis, flagged, show, save)

    known = obs[groupby].notna() & obs[keys].notna().all(axis=1)
    if not known.any():
        raise ValueError(f"No cell has a value in each of {needed}; there is nothing to draw.")
    groups = category_names(obs.loc[known, groupby])
    order = obs.loc[known, keys[0]].groupby(groups).median().sort_values(ascending=False).index
    counts = groups.value_counts()
    palette = category_palette(obs[groupby], getattr(data, "uns", {}).get(f"{groupby}_colors"))
    colors = {category_name(value): color for value, color in palette.items()}
    labels = [f"{name}  ({counts[name]:,})" for name in order]
    figure, grid = plt.subplots(
        1,
        len(keys),
        figsize=(0.6 + names_width(labels) + 3.2 * len(keys), 1.2 + 0.42 * len(order)),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    axes = list(grid.flat)
    for ax, key in zip(axes, keys, strict=True):
        values = obs.loc[known, key].to_numpy(dtype=float)
        table = pd.DataFrame({"value": values.clip(max=_MOST), "type": groups.to_numpy()})
        sns.violinplot(
            table, x="value", y="type", order=order, hue="type", palette=colors, ax=ax, cut=0,
            density_norm="width", inner="quart", linewidth=0.8, legend=False, saturation=1,
        )  # fmt: skip
        ax.set(xlabel=_title(key, values, _MOST), ylabel="")
        if key.endswith("novelty"):
            _draw_threshold(ax, values, None if flagged is None else flagged[known.to_numpy()])
        ax.set_xlim(left=min(0, values.min()) - 0.02)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(order)), labels)
    if flagged is not None:
        shares = pd.Series(flagged[known.to_numpy()]).groupby(groups.to_numpy()).mean()
        for place, name in enumerate(order):
            text = f"{100 * shares[name]:.0f} % new"
            axes[-1].text(
                1.02, place, text, transform=axes[-1].get_yaxis_transform(), va="center",
                color=plt.rcParams["text.color"] if shares[name] else "#999999",
            )  # fmt: skip
    return finish(figure, axes, show, save)


def _draw_threshold(ax, novelty, flagged):
    """Line between known cells and new ones, unless the flags come from elsewhere."""
    threshold = _KNOWN_SHARE
    if flagged is not None:
        highest_known = novelty[~flagged].max(initial=0.0)
        lowest_new = novelty[flagged].min(initial=np.inf)
        if highest_known > lowest_new:
            return
        if not highest_known <= threshold < lowest_new:  # annotate() had another known_share
            threshold = highest_known
    ax.axvline(threshold, color=plt.rcParams["text.color"], lw=0.8, ls="--")
    ax.annotate(
        f"new above {threshold:.3g}", (threshold, 1), (0, 2), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="center", va="bottom", fontsize="small",
    )  # fmt: skip


def _on_embedding(data, obs, keys, basis, flagged, show, save):
    places = latent_of(basis, data, len(obs))
    if places.shape[1] != 2:
        raise ValueError(f"Need two coordinates for {len(obs)} cells, got shape {places.shape}.")
    figure, grid = plt.subplots(
        1, len(keys), figsize=(4.4 * len(keys), 3.6), layout="constrained", squeeze=False
    )
    axes, size = list(grid.flat), float(np.clip(20_000 / len(obs), 0.5, 14))
    for ax, key in zip(axes, keys, strict=True):
        values = obs[key].to_numpy(dtype=float)
        shown = np.flatnonzero(np.isfinite(values) & np.isfinite(places).all(1))
        shown = shown[np.argsort(values[shown], kind="stable")]  # what is unsure lies on top
        rim = np.zeros(len(shown)) if flagged is None else 0.5 * flagged[shown]
        points = ax.scatter(
            *places[shown].T, c=values[shown].clip(max=_COLOR_MOST), s=size, cmap="viridis",
            vmin=0, vmax=_COLOR_MOST, linewidths=rim, edgecolors=plt.rcParams["text.color"],
            rasterized=True,
        )  # fmt: skip
        ax.set(xticks=[], yticks=[], title=_title(key, values[shown], _COLOR_MOST))
        ax.set_box_aspect(1)
        ax.spines[:].set_color("#CCCCCC")
        figure.colorbar(points, ax=ax, shrink=0.8)
    if flagged is not None and flagged.any():
        rim = {"marker": "o", "ls": "", "mfc": "none", "mec": plt.rcParams["text.color"], "ms": 5}
        axes[0].legend([axes[0].plot([], [], **rim)[0]], ["flagged as new"], loc="best", fontsize=8)
    return finish(figure, axes, show, save)


def _title(key: str, values: np.ndarray, most: float) -> str:
    name = key.removeprefix("mumask_").replace("_", " ")
    cut = len(values) and np.nanmax(values) > most
    return f"{name} (cut at {most:g})" if cut else name
