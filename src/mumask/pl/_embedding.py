"""Two embeddings of the same cells side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib import pyplot as plt

from mumask.data import torch_threads_kept

from ._utils import category_palette, finish, latent_of


def embedding_panels(
    before,
    after,
    data,
    color=("cell_type", "batch"),
    *,
    titles=("before", "after"),
    n_neighbors=15,
    seed=0,
    show=None,
    save=None,
):
    """Draw two latent spaces as UMAPs, a row for each column of `color`.

    Parameters
    ----------
    before, after
        Latent spaces of the same cells [n, d], or keys of ``data.obsm``. With two columns they
        are drawn as they are, else through ``scanpy.pp.neighbors`` and ``scanpy.tl.umap``. A cell
        with a NaN has no place in that embedding and is left out of it.
    data
        MuData, AnnData or the DataFrame of their ``obs``, in the order of the latents.
    color
        One or more columns of ``obs``. Categories take ``data.uns[f"{column}_colors"]`` where it
        is set, as in scanpy; numbers get a colour bar.
    titles
        Names of the two embeddings.
    n_neighbors
        Neighbours of the UMAP graph.
    seed
        Seed of the UMAP and of the order in which cells are drawn.
    show, save
        As in scanpy; `save` is the path of a file.

    Returns
    -------
    List of matplotlib Axes, row by row.

    Examples
    --------
    >>> latent = model.get_latent_representation()
    >>> axes = mumask.pl.embedding_panels(latent[:, :2], latent[:, 2:4], mdata, color="batch")
    >>> [ax.get_title() for ax in axes]
    ['before', 'after']
    """
    obs = data if isinstance(data, pd.DataFrame) else data.obs
    color = [color] if isinstance(color, str) else list(color)
    if missing := [key for key in color if key not in obs]:
        raise KeyError(f"Not in obs: {missing}; it has {list(obs)}.")
    places = [umap(latent_of(z, data, len(obs)), seed, n_neighbors) for z in (before, after)]
    figure, grid = plt.subplots(
        len(color),
        2,
        figsize=(8.8, 3.6 * len(color)),
        layout="constrained",
        squeeze=False,
    )
    # drawn in random order: else the last batch covers the others and mixing cannot be judged
    order = np.random.default_rng(seed).permutation(len(obs))
    size = float(np.clip(20_000 / len(obs), 0.5, 14))
    for row, key in zip(grid, color, strict=True):
        paint, handles = _paint(obs[key], getattr(data, "uns", {}).get(f"{key}_colors"))
        for ax, place, title in zip(row, places, titles, strict=True):
            shown = order[np.isfinite(place[order]).all(1)]
            points = ax.scatter(
                *place[shown].T, c=paint["c"][shown], s=size, linewidths=0, rasterized=True,
                **paint["scale"],
            )  # fmt: skip
            ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
            ax.set_box_aspect(1)
            ax.spines[:].set_color("#CCCCCC")
            if ax in grid[0]:
                ax.set_title(title)
        if handles:
            row[1].legend(
                handles=handles,
                title=key,
                loc="center left",
                bbox_to_anchor=(1.01, 0.5),
                frameon=False,
                ncols=-(-len(handles) // 14),
                alignment="left",
                handletextpad=0.1,
            )
        else:
            # an inset, because a colour bar of its own would shrink this panel alone
            bar = row[1].inset_axes([1.05, 0.1, 0.05, 0.8])
            figure.colorbar(points, cax=bar, label=key)
    return finish(figure, list(grid.flat), show, save)


@torch_threads_kept()
def umap(latent, seed, n_neighbors=15):
    """Places [n, 2]; NaN where the latent has a NaN."""
    if latent.shape[1] == 2:
        return latent
    known = np.isfinite(latent).all(1)
    shell = AnnData(obs=pd.DataFrame(index=np.arange(known.sum()).astype(str)))
    shell.obsm["latent"] = latent[known]
    k = min(n_neighbors, shell.n_obs - 1)
    sc.pp.neighbors(shell, n_neighbors=k, use_rep="latent", random_state=seed)
    sc.tl.umap(shell, random_state=seed)
    places = np.full((len(latent), 2), np.nan, np.float32)
    places[known] = shell.obsm["X_umap"]
    return places


def _paint(column, palette):
    """Colours of the cells and, for categories, the handles of a legend."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(dtype=float)
        low, high = np.nanmin(values), np.nanmax(values)
        return {"c": values, "scale": {"cmap": "viridis", "vmin": low, "vmax": high}}, []
    palette = category_palette(column, palette)
    codes = pd.Categorical(column, list(palette)).codes
    table = np.array([*palette.values(), "#D3D3D3"])  # the last one for missing labels
    handles = [
        plt.Line2D([], [], marker="o", ls="", ms=6, mew=0, color=table[i], label=str(name))
        for i, name in enumerate(palette)
        if i in codes  # no cell may have a category, as in a selection of cells
    ]
    if column.isna().any():
        handles.append(
            plt.Line2D([], [], marker="o", ls="", ms=6, mew=0, color=table[-1], label="missing")
        )
    return {"c": table[codes], "scale": {}}, handles
