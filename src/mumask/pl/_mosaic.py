"""The layout of a mosaic: which batch measured which modality and how much of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from matplotlib import pyplot as plt
from matplotlib.patches import Patch, Rectangle

from mumask.data import category_name, category_names, check_is_mosaic
from mumask.data._found_panels import find_panels
from mumask.pp import panels

from ._utils import finish, modality_colors, names_width, natural_order

# columns beside those of the modalities, which may be called "batch" but have no slash
_BATCH, _N_CELLS = "/batch", "/n_cells"
_GAP = 0.06  # between columns of modalities, in the mean width of a column
_ABSENT = {"facecolor": "none", "edgecolor": "#BBBBBB", "linestyle": (0, (3, 3)), "linewidth": 1}


def mosaic(mdata, batch_key: str | None = None, *, ax=None, show=None, save=None):
    """Draw which batch has which modality, as blocks of cells x features.

    A row of blocks is a batch (taller with more cells), a column a modality (wider with more
    features); neither is to scale, so that small ones stay readable. A dashed outline is a
    modality the batch lacks. The hatched part of a block is the share of features off the
    batch's panel: as recorded (see :func:`mumask.pp.panels`), or found as a model finds them,
    zero in all cells of the batch though too frequent in like cells of the others for that to be
    chance. A batch that measured a modality in part of its cells is split into one row for each
    combination.

    Parameters
    ----------
    mdata
        MuData; presence is read from the ``obs_names`` of its modalities.
    batch_key
        Column of ``mdata.obs``; None makes a row of every combination of modalities.
    ax
        Axes to draw into.
    show, save
        As in scanpy; `save` is the path of a file.

    Returns
    -------
    The matplotlib Axes.

    Examples
    --------
    >>> ax = mumask.pl.mosaic(mdata, batch_key="batch")
    >>> [tick.get_text().split()[0] for tick in ax.get_yticklabels()]
    ['CITE-seq', 'ASAP-seq', 'RNA-only']
    """
    check_is_mosaic(mdata)
    modalities = list(mdata.mod)
    rows = _rows(mdata, batch_key)
    recorded = panels(mdata, batch_key) if batch_key is not None else {}
    measured = {mod: _measured(mdata, mod, rows, recorded.get(mod, {})) for mod in modalities}
    widths = _sizes([mdata[mod].n_vars for mod in modalities])
    heights = _sizes(rows[_N_CELLS])
    lefts = np.cumsum([0, *(widths + _GAP)])[:-1]
    if ax is None:
        # bold names must fit above their columns
        needed = [1.2 * names_width([mod]) / w for mod, w in zip(modalities, widths, strict=True)]
        unit = np.clip(max(needed), 2.2, 5)
        left = names_width(rows[_BATCH])
        size = (1.2 + left + unit * widths.sum(), 1.1 + 0.75 * heights.sum())
        _, ax = plt.subplots(figsize=size, layout="constrained")

    colors, bottom, drawn = modality_colors(modalities), 0.0, set()
    ticks = []
    for i, row in rows.iterrows():
        if i and row[_BATCH] != rows.loc[i - 1, _BATCH]:
            bottom += 2 * _GAP
        middle = bottom + heights[i] / 2
        name = "missing" if row[_BATCH] == "nan" else row[_BATCH]  # as embedding_panels calls it
        ticks.append((middle, f"{name}\n{row[_N_CELLS]:,} cells"))
        for mod, left, width in zip(modalities, lefts, widths, strict=True):
            block = ((left, bottom), width, heights[i])
            if not row[mod]:
                ax.add_patch(Rectangle(*block, **_ABSENT))
                drawn.add("absent")
                continue
            n, total = measured[mod][i], mdata[mod].n_vars
            ax.add_patch(Rectangle(*block, facecolor=colors[mod], alpha=0.25, edgecolor="none"))
            shown = width * n / total
            ax.add_patch(
                Rectangle(
                    (left, bottom), shown, heights[i], facecolor=colors[mod], edgecolor="none"
                )
            )
            if n < total:
                ax.add_patch(
                    Rectangle(
                        (left + shown, bottom), width - shown, heights[i], facecolor="none",
                        edgecolor=colors[mod], hatch="////", linewidth=0,
                    )
                )  # fmt: skip
                drawn.add("panel")
                text = f"{n:,} of {total:,}"
                label = ax.text(left + width / 2, middle, text, ha="center", va="center")
                label.set_bbox(
                    {"facecolor": plt.rcParams["axes.facecolor"], "edgecolor": "none", "pad": 2}
                )
        bottom += heights[i] + _GAP / 2

    top = "{}\n{:,} features"
    ax.set_xticks(lefts + widths / 2, [top.format(mod, mdata[mod].n_vars) for mod in modalities])
    ax.set_yticks(*zip(*ticks, strict=True))
    ax.tick_params(length=0, labelsize="medium")
    ax.xaxis.tick_top()
    for tick, mod in zip(ax.get_xticklabels(), modalities, strict=True):
        tick.set_color(colors[mod])
        tick.set_fontweight("bold")
    ax.set_xlim(-_GAP / 2, lefts[-1] + widths[-1] + _GAP / 2)
    ax.set_ylim(bottom, -_GAP / 2)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    _legend(ax, drawn)
    return finish(ax.figure, ax, show, save)


def _rows(mdata, batch_key):
    """One row per batch and combination of modalities: batch, n_cells, a bool per modality."""
    table = pd.DataFrame(
        {mod: mdata.obs_names.isin(mdata[mod].obs_names) for mod in mdata.mod},
        index=mdata.obs_names,
    )
    modalities = list(table)
    if batch_key is None:
        names = table.apply(lambda has: " + ".join(np.array(modalities)[has.to_numpy()]), axis=1)
        table.insert(0, _BATCH, names)
        order = list(pd.unique(names))
    elif batch_key in mdata.obs:
        column = mdata.obs[batch_key]
        table.insert(0, _BATCH, category_names(column))
        order = [category_name(name) for name in natural_order(column)]
    else:
        raise KeyError(f"{batch_key!r} is not a column of mdata.obs; it has {list(mdata.obs)}.")
    groups = table.groupby(list(table), sort=False).size().rename(_N_CELLS).reset_index()
    rank = groups[_BATCH].map({name: i for i, name in enumerate(order)})
    order = np.lexsort([-groups[_N_CELLS], rank])
    rows = groups.iloc[order].reset_index(drop=True)
    rows.attrs["cells"] = table
    return rows


def _measured(mdata, mod, rows, recorded):
    """Features of a modality that each row's batch measured: as recorded, or as a model finds."""
    adata, cells = mdata[mod], rows.attrs["cells"]
    if not adata.n_obs:  # its cells were left out by a selection
        return [0] * len(rows)
    batch = cells[_BATCH].reindex(adata.obs_names).to_numpy()
    names = list(pd.unique(batch))
    n = dict.fromkeys(names, adata.n_vars)
    if adata.X is not None:  # with counts in a layer alone, nothing is found
        nonzero = []
        for name in names:
            X = adata[batch == name].X
            X = X if sp.issparse(X) else np.asarray(X)
            nonzero.append(np.asarray((X != 0).sum(0)).ravel())
        codes = pd.Categorical(batch, categories=names).codes
        panel = find_panels(adata.X, codes, np.stack(nonzero))
        n = dict(zip(names, panel.sum(1).tolist(), strict=True))
    n |= {name: len(features) for name, features in recorded.items()}
    return [n[row[_BATCH]] if row[mod] else 0 for _, row in rows.iterrows()]


def _sizes(counts):
    """Drawn sizes around 1: grow with the logarithm, the smallest at least half the largest."""
    logs = np.log10(np.asarray(counts, dtype=float) + 1)
    return (sizes := np.clip(logs / logs.max(), 0.5, 1)) / sizes.mean()


def _legend(ax, drawn):
    handles = []
    if "absent" in drawn:
        handles.append(Patch(label="not measured", **_ABSENT))
    if "panel" in drawn:
        handles.append(
            Patch(facecolor="none", edgecolor="#777777", hatch="////", label="off the panel")
        )
    if handles:
        ax.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False
        )
