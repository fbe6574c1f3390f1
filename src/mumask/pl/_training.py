"""The course of training."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from ._utils import finish

_COLORS = {"train": "#4C72B0", "validation": "#DD8452", "": "#555555"}
_TITLES = {"elbo": "negative ELBO"}  # as scvi-tools logs it
_FIRST = ("loss", "elbo", "reconstruction")


def training_curves(model_or_history, keys=None, *, skip=0, n_columns=3, show=None, save=None):
    """Draw every quantity logged in training over the epochs, train beside validation.

    The ELBO is logged with the sign of a loss, the opposite of ``model.get_elbo()``. Losses in
    validation usually lie below those in training, which hides modalities and drops units.

    Parameters
    ----------
    model_or_history
        A trained model, or its ``history``: a dict of DataFrames with the epoch as index, as
        scvi-tools keeps it.
    keys
        One or more quantities to draw, without their train or validation part (``"elbo"``,
        ``"loss"``). None draws all that were logged per epoch, but not what is 0 throughout, nor
        an ELBO that equals the reconstruction loss, as in models without a KL divergence.
    skip
        Leave out the first epochs, whose losses often hide the rest.
    n_columns
        Axes per row of the figure.
    show, save
        As in scanpy; `save` is the path of a file.

    Returns
    -------
    List of matplotlib Axes, one per quantity.

    Raises
    ------
    ValueError
        If the model is not trained, `keys` is empty or a key was not logged.

    Examples
    --------
    >>> axes = mumask.pl.training_curves(model, keys=["loss"])
    >>> axes[0].get_title()
    'loss'
    """
    history = getattr(model_or_history, "history", model_or_history)
    if not history:
        raise ValueError("There is no history; train the model first.")
    curves = _group(history)
    if keys is None:
        curves = {name: splits for name, splits in curves.items() if _says_more(name, curves)}
    else:
        keys = [keys] if isinstance(keys, str) else list(keys)
        if not keys:
            raise ValueError(f"`keys` is empty; name some of {list(curves)}, or None for all.")
        if missing := [key for key in keys if key not in curves]:
            raise ValueError(f"Not logged: {missing}; there are {list(curves)}.")
        curves = {key: curves[key] for key in keys}
    n_columns = min(n_columns, len(curves))
    n_rows = -(-len(curves) // n_columns)
    figure, grid = plt.subplots(
        n_rows,
        n_columns,
        figsize=(3.6 * n_columns, 2.7 * n_rows),
        layout="constrained",
        squeeze=False,
    )
    for ax in grid.flat[len(curves) :]:
        ax.remove()
    axes = list(grid.flat[: len(curves)])
    for ax, (name, splits) in zip(axes, curves.items(), strict=True):
        for split, values in splits.items():
            values = values[values.index >= skip]
            marker = "o" if len(values) == 1 else None  # a line of one epoch would not be seen
            ax.plot(
                values.index,
                values,
                color=_COLORS[split],
                label=split or name,
                marker=marker,
                lw=1.8,
            )
        ax.set_title(_TITLES.get(name, name.replace("_", " ")))
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.25)
        if set(splits) != {""}:
            ax.legend(frameon=False)
    return finish(figure, axes, show, save)


def _group(history):
    """Quantity -> split -> Series over epochs; per-step logs go where per-epoch ones exist."""
    curves: dict[str, dict[str, pd.Series]] = {}
    for key, table in history.items():
        if key.endswith("_step"):
            continue
        name, split = key.removesuffix("_epoch"), ""
        if match := re.fullmatch(r"(train|validation)_(.+)|(.+)_(train|validation)", name):
            split = match[1] or match[4]
            name = match[2] or match[3]
        column = table.iloc[:, 0] if isinstance(table, pd.DataFrame) else pd.Series(table)
        values = pd.to_numeric(column, errors="coerce").dropna()
        if len(values) and np.isfinite(values).any():
            curves.setdefault(name, {})[split] = values

    def rank(name):
        return next((i for i, first in enumerate(_FIRST) if name.startswith(first)), len(_FIRST))

    return {name: curves[name] for name in sorted(curves, key=rank)}


def _says_more(name, curves):
    """Whether a quantity is more than zeros, and an ELBO more than the reconstruction loss."""
    splits, other = curves[name], curves.get("reconstruction_loss", {})
    if name == "elbo" and all(values.equals(other.get(split)) for split, values in splits.items()):
        return False
    return any((values != 0).any() for values in splits.values())
