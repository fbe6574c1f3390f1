"""What every plot shares: finishing a figure, colours, one table out of many kinds."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from matplotlib import pyplot as plt
from natsort import natsorted

from mumask.data import category_name, check_order

# One colour per modality in every picture; further modalities take the rest of the cycle.
_MODALITY_COLORS = {"rna": "#4C72B0", "protein": "#DD8452", "prot": "#DD8452", "adt": "#DD8452"}
_MODALITY_COLORS |= {"atac": "#55A868", "spatial": "#8172B3"}
_SPARE_COLORS = ("#C44E52", "#8172B3", "#64B5CD", "#CCB974", "#DA8BC3", "#8C8C8C", "#937860")


def finish(figure, axes, show: bool | None, save: str | PathLike | None):
    """Save and show as asked, and hand back `axes`.

    Without `show` a window opens only where there is one (not in notebooks, which draw the figure
    themselves, nor in scripts without a display), if scanpy's ``settings.autoshow`` is on and
    the figure is not saved.
    """
    name = Path(save).name if isinstance(save, str | PathLike) else ""
    if save is True or (name.startswith(".") and not Path(name).suffix):  # scanpy names the file
        raise ValueError(f"`save` is {save!r}; give the path of a file: save='figure.pdf'.")
    if save:
        # `ax` may lie in part of a figure, which is saved as a whole
        figure.canvas.figure.savefig(save, bbox_inches="tight", dpi=200)
    if show is None:
        window = figure.canvas.required_interactive_framework is not None
        show = window and sc.settings.autoshow and not save
    if show:
        plt.show()
    return axes


def modality_colors(modalities) -> dict[str, str]:
    """Colour of each modality: known names keep theirs, others take unused ones in order."""
    colors, spare = {}, iter(_SPARE_COLORS * (1 + len(modalities)))
    for mod in modalities:
        known = _MODALITY_COLORS.get(mod.lower())
        colors[mod] = known if known not in (None, *colors.values()) else next(spare)
    return colors


def category_colors(n: int) -> list[str]:
    """`n` colours, scanpy's own palettes for the number of categories."""
    palettes = sc.pl.palettes
    for palette in (palettes.default_20, palettes.default_28, palettes.default_102):
        if n <= len(palette):
            return list(palette[:n])
    return [palettes.default_102[i % 102] for i in range(n)]


def category_palette(column: pd.Series, palette=None) -> dict:
    """Colour of each category, also of those that no cell has, from `palette` if it has enough.

    A palette of ``uns`` is in the order of the categories.
    """
    categorical = isinstance(column.dtype, pd.CategoricalDtype)
    names = list(column.cat.categories) if categorical else natural_order(column)
    if palette is None or len(palette) < len(names):
        palette = category_colors(len(names))
    return dict(zip(names, palette, strict=False))


def names_width(names) -> float:
    """Inches that the longest of `names` takes; bounded, so that a figure stays one."""
    letter = 0.6 * plt.rcParams["font.size"] / 72
    return float(np.clip(letter * max(map(len, names), default=0), 1, 8))


def natural_order(values) -> list:
    """Categories of `values`, "10" after "9".

    Only where they stand in the order of the alphabet, which is what sorting gives. Any other
    order, and that of an ordered categorical, was chosen and stays.
    """
    column = pd.Series(values).astype("category")
    names = {value: category_name(value) for value in column.cat.categories}
    if column.cat.ordered or list(names.values()) != sorted(names.values()):
        return list(names)
    return natsorted(names, key=names.get)


def latent_of(latent, data, n_cells: int) -> np.ndarray:
    """Places of the cells [n, d], given as such or as a key of ``data.obsm``."""
    if isinstance(latent, str):
        obsm = getattr(data, "obsm", {})
        if latent not in obsm:
            raise KeyError(f"{latent!r} is not in obsm; it has {list(obsm)}.")
        latent = obsm[latent]
    check_order(getattr(data, "obs", data), latent)
    latent = np.asarray(latent, dtype=np.float32)
    if latent.ndim != 2 or len(latent) != n_cells:
        raise ValueError(f"A latent of shape {latent.shape} does not fit {n_cells} cells.")
    return latent


def as_table(values) -> pd.DataFrame:
    """Dense cells x features table of an AnnData, DataFrame, sparse or dense matrix."""
    if isinstance(values, pd.DataFrame):
        return values
    if isinstance(values, AnnData):
        return values.to_df()
    values = values.toarray() if sp.issparse(values) else np.asarray(values)
    return pd.DataFrame(values, columns=[f"feature {j}" for j in range(values.shape[1])])
