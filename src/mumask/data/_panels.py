"""Panels: which features a batch measured."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger("mumask")

# A rare feature is zero in a small batch by chance, and a chance zero is a measurement. A feature
# counts as not measured if at least this many cells of the batch should have shown it (a chance
# below e^-5), and with it all zero features of a batch that has far more of them than chance leaves.
EXPECTED_CELLS = 5.0
MORE_THAN_CHANCE = 2.0


def find_panel(
    nonzero: np.ndarray, n_cells: np.ndarray, detection: np.ndarray | None = None
) -> np.ndarray:
    """Panel `F_m` from the data: a feature that is zero all over one batch but not in another.

    Parameters
    ----------
    nonzero
        Cells of every batch in which the feature is not zero, shape ``(n_batch, n_features)``.
    n_cells
        Cells of every batch that have the modality, shape ``(n_batch,)``.
    detection
        Share of a reference's cells in which each feature is not zero, shape ``(n_features,)``;
        by default that of the other batches.

    Returns
    -------
    Booleans of shape ``(n_batch, n_features)``; False where the batch did not measure the feature.
    Batches without the modality, and features that are zero everywhere, are left True.
    """
    others = n_cells.sum() - n_cells
    rate = detection
    if detection is None:
        rate = (nonzero.sum(axis=0) - nonzero) / np.maximum(others, 1)[:, None]
    expected = rate * n_cells[:, None]
    zero, elsewhere = nonzero == 0, expected > 0
    by_chance = np.where(elsewhere, np.exp(-expected), 0.0).sum(axis=1, keepdims=True)
    n_zero = (zero & elsewhere).sum(axis=1, keepdims=True)
    targeted = n_zero > MORE_THAN_CHANCE * by_chance + EXPECTED_CELLS
    return ~(zero & elsewhere & (targeted | (expected >= EXPECTED_CELLS)))


def given_panel(
    panels: Mapping[str, Sequence[str]], modality: str, batches: Sequence[str], names: np.ndarray
) -> np.ndarray:
    """Panel `F_m` from lists of measured features per batch; batches not listed measured all."""
    unknown = set(panels) - set(batches)
    if unknown:
        raise ValueError(
            f"`panels` of {modality!r} names batches {sorted(unknown)} that are not in the data, "
            f"which has {list(batches)}."
        )
    panel = np.ones((len(batches), len(names)), dtype=bool)
    for batch, features in panels.items():
        strange = set(features) - set(names)
        if strange:
            raise ValueError(
                f"`panels` of {modality!r}, batch {batch!r}, names {len(strange)} features that the "
                f"modality does not have, such as {sorted(strange)[0]!r}."
            )
        panel[list(batches).index(batch)] = np.isin(names, list(features))
    empty = np.flatnonzero(~panel.any(axis=1))
    if len(empty):
        raise ValueError(
            f"`panels` of {modality!r}: batch {batches[empty[0]]!r} measured no feature. Drop its "
            "cells from the modality instead."
        )
    return panel


def log_panel(panel: np.ndarray, modality: str, batches: Sequence[str]) -> None:
    """Say which batches measured only a part of the features."""
    for batch, measured in zip(batches, panel, strict=True):
        if not measured.all():
            logger.info(
                "Panel of %r: batch %r measured %d of %d features; the others are masked there "
                "(set `panels` to choose otherwise).",
                modality,
                batch,
                measured.sum(),
                len(measured),
            )
