"""The mask algebra in pictures."""

from __future__ import annotations

import numpy as np
from shapes import ATAC, INK, PROTEIN, RNA, SOFT
from shapes import arrow, cells, drawing, lines, write

COLORS = [RNA] * 6 + [PROTEIN] * 3 + [ATAC] * 4
MODALITY = np.repeat([0, 1, 2], [6, 3, 4])
BATCHES = ("CITE-seq", "ASAP-seq", "targeted")
PRESENCE = np.repeat(np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]]), 2, axis=0)
PANEL = np.ones((3, 13), dtype=int)
PANEL[2, [1, 4]] = 0  # the targeted batch lacks two genes
MEASURED = PRESENCE[:, MODALITY] * PANEL[np.repeat([0, 1, 2], 2)]
# What the schedule drew in one step, cell by cell.
SOURCE = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
HELD_OUT = 3  # a gene that no encoder may see
STEP = 15


def names(x, y):
    """Modalities over the columns of a matrix."""
    places = ((0, 6, "RNA", RNA), (6, 3, "protein", PROTEIN), (9, 4, "ATAC", ATAC))
    return "".join(
        write(x + (start + n / 2) * STEP - 1.5, y, name, 11.5, color, bold=True)
        for start, n, name, color in places
    )


def batches(x, y):
    """Batches beside the rows of a matrix."""
    return "".join(
        write(x, y + i * 2 * STEP + STEP + 2, name, 12, INK, "end")
        for i, name in enumerate(BATCHES)
    )


def algebra():
    y, colors = 78, [RNA, PROTEIN, ATAC]
    ends = [100, 282, 560]
    rows = np.repeat([0, 1, 2], 2)
    return drawing(
        790, 212, "What was measured",
        "Presence, cells by modalities, times panel, batches by features, is what was measured.",
        write(ends[0] + 22, 28, "presence P", 14, INK, bold=True),
        write(ends[0] + 22, 46, "cells × modalities", 12),
        batches(ends[0] - 10, y),
        cells(ends[0], y, PRESENCE, colors),
        write(214, y + 51, "×", 22, INK),
        write(ends[1] + 97, 28, "panel F", 14, INK, bold=True),
        write(ends[1] + 97, 46, "batches × features, one row per cell", 12),
        names(ends[1], y - 8),
        cells(ends[1], y, PANEL[rows], COLORS),
        write(518, y + 51, "=", 22, INK),
        write(ends[2] + 97, 28, "measured", 14, INK, bold=True),
        write(ends[2] + 97, 46, "cells × features", 12),
        names(ends[2], y - 8),
        cells(ends[2], y, MEASURED, COLORS),
        write(395, 196, "full: a value is there, be it zero · empty: nothing was measured", 12),
    )  # fmt: skip


def step():
    y = 92
    ends = [92, 342, 592]
    shown = MEASURED * SOURCE[:, MODALITY]
    shown[:, HELD_OUT] = 0
    learned = MEASURED + (MEASURED * (1 - shown))
    return drawing(
        810, 262, "One training step",
        "The input mask hides some of what was measured; the output mask asks for all of it.",
        write(ends[0] + 97, 28, "measured", 14, INK, bold=True),
        write(ends[0] + 97, 46, "P × F", 12),
        names(ends[0], y - 8), batches(ends[0] - 8, y), cells(ends[0], y, MEASURED, COLORS),
        arrow((ends[0] + 202, y + 44), (ends[1] - 8, y + 44)),
        write(ends[1] + 97, 28, "input mask", 14, INK, bold=True),
        lines(ends[1] + 97, 46, ["× sources drawn for this step", "× not held out"], 12),
        names(ends[1], y - 8), cells(ends[1], y, shown, COLORS),
        arrow((ends[1] + 202, y + 44), (ends[2] - 8, y + 44)),
        write(ends[2] + 97, 28, "output mask", 14, INK, bold=True),
        lines(ends[2] + 97, 46, ["× targets of this step", "(here: all that is present)"], 12),
        names(ends[2], y - 8), cells(ends[2], y, learned, COLORS),
        write(ends[1] + 3 * STEP + 6, y + 6 * STEP + 14, "↑ held-out gene", 11.5, SOFT, "start"),
        write(405, 232, "ringed: hidden from the encoder, yet measured, so the decoder can be "
              "held to it", 12),
        write(405, 250, "an empty square of the output mask has no influence on any gradient", 12),
    )  # fmt: skip


def schedules():
    """Sources and targets that each schedule draws for a cell with three modalities."""
    colors = [RNA, PROTEIN, ATAC]
    subsets = [([1, 1, 1], [1, 1, 1]), ([1, 0, 0], [1, 1, 1]), ([0, 1, 1], [1, 1, 1])]
    pairs = [([1, 0, 0], [1, 0, 0]), ([0, 1, 0], [1, 0, 0]), ([0, 1, 0], [0, 0, 1])]
    parts = []
    for x, title, text, draws in (
        (30, '"subsets" (default)', "any subset to all that is there", subsets),
        (420, '"pairs" (the paper)', "one modality to one modality", pairs),
    ):
        parts.append(write(x, 30, title, 14, INK, "start", bold=True))
        parts.append(write(x, 48, text, 12, SOFT, "start"))
        for i, (source, target) in enumerate(draws):
            top = 66 + i * 28
            parts.append(cells(x + 4, top, [source], colors, 15, 4))
            parts.append(arrow((x + 72, top + 8), (x + 104, top + 8)))
            parts.append(cells(x + 114, top, [target], colors, 15, 4))
            same = source == target
            kind = "everything to itself" if same and sum(source) > 1 else "self-reconstruction"
            if not same:
                kind = "self and alternative" if sum(target) > 1 else "alternative reconstruction"
            parts.append(write(x + 184, top + 12, kind, 12, SOFT, "start"))
    return drawing(
        800,
        184,
        "Schedules",
        "Which modalities are encoded and which decoded in a step.",
        *parts,
        write(400, 170, "squares: RNA, protein, ATAC of one cell that has all three", 12),
    )


DRAWINGS = {"masks_measured": algebra, "masks_step": step, "masks_schedules": schedules}
