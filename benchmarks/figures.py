"""Figures of the report."""

from __future__ import annotations

import logging
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.colors import Normalize
from plottable import ColumnDefinition, Table

COLOURS = {"ours": "#1b6e8c", "peer": "#444444", "baseline": "#999999"}
STYLE = {
    "svg.fonttype": "none",  # text stays text: small files that can be searched
    "svg.hashsalt": "mumask",  # the same figures give the same file
    "font.family": "sans-serif",
}


def _save(figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def bubbles(table: pd.DataFrame, task, path: Path) -> None:
    """Methods x scores as coloured circles, in the manner of scIB; best at the darkest.

    Parameters
    ----------
    table
        One row per method with ``method``, ``group`` and the scores.
    task
        Its ``columns`` and ``lower``.
    path
        SVG to write.
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    names = [name for name in task.columns if table[name].notna().any()]
    shown = table[["method", *names]]
    columns = [ColumnDefinition("method", title="", width=3.0, textprops={"ha": "left"})]
    for name in names:
        values = shown[name].dropna()
        span = Normalize(
            values.min(), values.max() if values.max() > values.min() else values.min() + 1
        )

        def colour(value, span=span, lower=name in task.lower):
            if pd.isna(value):
                return "white"
            share = 1 - span(value) if lower else span(value)
            return plt.cm.PuBu(0.05 + 0.45 * share)  # dark numbers stay legible on it

        columns.append(
            ColumnDefinition(
                name,
                title=task.columns[name].replace(" ", "\n"),
                width=1.0,
                cmap=colour,
                formatter=lambda value: "" if pd.isna(value) else f"{value:.2f}",
                textprops={"ha": "center", "bbox": {"boxstyle": "circle", "pad": 0.35, "lw": 0}},
            )
        )
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(3.0 + 0.85 * len(names), 0.8 + 0.55 * len(shown)))
        drawn = Table(
            shown,
            cell_kw={"linewidth": 0, "edgecolor": "none"},
            column_definitions=columns,
            ax=axis,
            row_dividers=True,
            footer_divider=True,
            row_divider_kw={"linewidth": 0.5, "linestyle": (0, (1, 3))},
            col_label_divider_kw={"linewidth": 1},
            textprops={"fontsize": 9},
            index_col="method",
        )
        for cell, group in zip(drawn.columns["method"].cells, table["group"], strict=True):
            cell.text.set_color(COLOURS[group])
            cell.text.set_fontweight("bold" if group == "ours" else "normal")
        _save(figure, path)


def scaling(records: list[dict], path: Path) -> None:
    """Seconds per epoch and peak memory against the number of cells."""
    table = pd.DataFrame([r for r in records if "error" not in r])
    table = table.groupby("cells").median(numeric_only=True).reset_index()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
        for axis, column, title in (
            (axes[0], "seconds_per_epoch", "seconds per epoch"),
            (axes[1], "peak_mib", "peak memory (MiB)"),
        ):
            axis.plot(table["cells"], table[column], marker="o", color=COLOURS["ours"])
            axis.set(xscale="log", yscale="log", xlabel="cells", ylabel=title)
            axis.spines[["top", "right"]].set_visible(False)
        axes[1].plot(
            table["cells"], table["input_mib"], marker="s", color="#999999", ls=":", label="input"
        )
        axes[1].legend(frameon=False)
        _save(figure, path)
