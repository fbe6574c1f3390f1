"""Panels: which features a batch measured, as told, else as recorded, else as found."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import gammaln

from ._categories import category_name, category_names

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

logger = logging.getLogger("mumask")

# A table features x batches in ``varm``: it is written with the file and, unlike lists of names
# in ``uns``, follows when features are dropped or reordered.
PANEL_KEY = "measured"

# How often data in which everything was measured may be said to lack something.
LEVEL = 0.01
# Dispersion of rates between batches before any feature was seen (mean of an exponential prior).
PRIOR_DISPERSION = 0.25
# Features from which depth and dispersion are fitted, at most.
N_FITTED = 2000


def find_panel(nonzero: np.ndarray, n_cells: np.ndarray) -> np.ndarray:
    """Panel `F_m` from the data: features whose absence from a batch chance does not explain.

    A zero of a rare feature in a small batch is a measurement, so a feature that no cell of a
    batch shows is weighed against the chance of just that. The number of cells that show a
    measured feature is taken as negative binomial around the rate in the other batches times the
    cells of this batch, times a factor for its depth. Its dispersion is that of rates between
    batches plus that of a rate known from few cells (without the former, the test is the
    conditional one of two Poisson counts). Depth and dispersion are fitted to the features that
    the batch does show (zeros truncated), so that a batch of one cell type, whose rates the
    others predict badly, needs stronger evidence. A batch lacks an unknown share of the features,
    fitted by maximum likelihood (EM); if a likelihood-ratio test speaks for a share above zero,
    features more likely absent than zero by chance (posterior above one half) are taken out. For
    a single absent feature the test is a Bonferroni correction over all features and batches.

    Parameters
    ----------
    nonzero
        Cells of every batch in which the feature is not zero, shape ``(n_batch, n_features)``.
    n_cells
        Cells of every batch that have the modality, shape ``(n_batch,)``.

    Returns
    -------
    Booleans of shape ``(n_batch, n_features)``; False where the batch did not measure the feature.
    Batches without the modality, and features that are zero everywhere else, are left True.
    """
    panel = np.ones(nonzero.shape, dtype=bool)
    here = np.flatnonzero(n_cells)
    for batch in here:
        seen, n_others = nonzero.sum(axis=0) - nonzero[batch], n_cells.sum() - n_cells[batch]
        expected = seen * (n_cells[batch] / max(n_others, 1))
        chance = _chance_of_zero(nonzero[batch], expected, seen)
        panel[batch] = _measured(nonzero[batch] > 0, chance, LEVEL / len(here))
    return panel


def measured_though_unseen(
    open_features: np.ndarray,
    nonzero: np.ndarray,
    expected: np.ndarray,
    seen: np.ndarray,
    n_batches: int = 1,
) -> np.ndarray:
    """Which features that no cell of a batch shows were measured there all the same.

    As :func:`find_panel`, with rates that are expected of these very cells in place of those of
    other batches: a batch of one cell type does not show the marker genes of others.

    Parameters
    ----------
    open_features
        Features in question, booleans ``(n_features,)``.
    nonzero, expected
        Cells that show each feature, and those that should, ``(n_features,)``. For features that
        do not belong to the data, 0.
    seen
        Cells elsewhere that each rate comes from, ``(n_features,)``.
    n_batches
        Batches that are judged like this.

    Returns
    -------
    Booleans of shape ``(n_features,)``, no more than `open_features`.
    """
    chance = _chance_of_zero(nonzero, expected, seen)
    return open_features & _measured(~open_features, chance, LEVEL / n_batches)


def _measured(shown: np.ndarray, chance: np.ndarray, level: float) -> np.ndarray:
    """Features that a batch measured, ``(n_features,)``, by the chance of not showing them."""
    could = chance < 1
    absent = could & ~shown
    by_chance = chance[absent]
    share = 0.5 if absent.any() else 0.0
    for _ in range(100 if absent.any() else 0):
        share = _posterior(share, by_chance).sum() / could.sum()
    share = min(share, 1 - 1e-12)
    gain = np.log(share / by_chance + 1 - share).sum()
    gain += (could & shown).sum() * np.log1p(-share)
    # One absent feature among n gains log(1 / (n p)) - 1 over chance p: above it, n p < level.
    if gain > np.log(1 / level) - 1:
        absent[absent] = _posterior(share, by_chance) > 0.5
        return ~absent
    return np.ones(len(shown), dtype=bool)


def _posterior(share: float, by_chance: np.ndarray) -> np.ndarray:
    return share / (share + (1 - share) * by_chance)


def _chance_of_zero(shown: np.ndarray, expected: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Probability that no cell of a batch shows a measured feature, shape ``(n_features,)``.

    Parameters
    ----------
    shown
        Cells of the batch that show the feature.
    expected
        Those that should, at the rate of the others.
    seen
        Cells elsewhere that this rate comes from.
    """
    some = np.flatnonzero((shown > 0) & (seen > 0))
    some = some[:: len(some) // N_FITTED + 1]
    k, mean, sampling = shown[some], expected[some], 1 / seen[some]

    def loss(parameters: np.ndarray) -> float:
        depth, between = np.exp(parameters)
        mu, dispersion = depth * mean, between + sampling
        size, log_zero = 1 / dispersion, _log_zero(mu, dispersion)
        log_p = gammaln(k + size) - gammaln(size) - gammaln(k + 1)
        log_p += k * np.log(mu / (size + mu)) + log_zero - np.log(-np.expm1(log_zero))
        return between / PRIOR_DISPERSION - log_p.sum()

    start = [np.log(k.sum() / mean.sum()) if len(some) else 0.0, np.log(PRIOR_DISPERSION)]
    bounds = [(start[0] - 3, start[0] + 3), (np.log(1e-4), np.log(100))]
    depth, between = np.exp(minimize(loss, start, bounds=bounds, method="Nelder-Mead").x)
    log_zero = _log_zero(depth * expected, between + 1 / np.maximum(seen, 1))
    # Not below the smallest number above 0, by which is divided.
    return np.exp(np.maximum(log_zero, -700.0))


def _log_zero(mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    return -np.log1p(dispersion * mean) / dispersion


def recorded_panels(adata: AnnData, names: np.ndarray) -> dict[str, np.ndarray]:
    """Measured features by batch as recorded in ``varm["measured"]``.

    Parameters
    ----------
    adata
        One modality.
    names
        Features in the order wanted; those that `adata` lacks count as not measured.

    Returns
    -------
    Batch -> booleans of shape ``(len(names),)``; empty without a record.
    """
    table = adata.varm.get(PANEL_KEY)
    if not isinstance(table, pd.DataFrame) or not table.isin([0, 1]).all(axis=None):
        return {}  # anything else under that key is the user's own
    table = table.set_axis(adata.var_names.astype(str), axis=0).reindex(names, fill_value=False)
    return {category_name(batch): table[batch].to_numpy(dtype=bool) for batch in table}


def measured_by_all(mdata: MuData, modality: str, cells: pd.Index, batch_key: str) -> np.ndarray:
    """Features that every batch of `cells` measured as far as recorded, ``(n_features,)``."""
    adata = mdata.mod[modality]
    panels, measured = recorded_panels(adata, adata.var_names), np.ones(adata.n_vars, dtype=bool)
    if all(panel.all() for panel in panels.values()):
        return measured
    if batch_key not in mdata.obs:
        raise KeyError(
            f"Modality {modality!r} has panels recorded by batch, but `batch_key`: {batch_key!r} is "
            f"not in its MuData's obs, which has {list(mdata.obs)}."
        )
    batches = category_names(mdata.obs[batch_key])
    here = set(batches.reindex(cells))
    warn_unused(panels, modality, set(batches), here)
    for batch in panels.keys() & here:
        measured &= panels[batch]
    return measured


def warn_unused(
    recorded: Mapping[str, np.ndarray],
    modality: str,
    batches: Collection[str],
    asked: Collection[str],
) -> None:
    """Say that panels were recorded for something else than the batches: one was renamed.

    Parameters
    ----------
    recorded
        Measured features by the name in the record.
    modality
        Name.
    batches
        Batches of the data.
    asked
        Those of them whose panels are wanted.
    """
    of_none = [batch for batch in recorded if batch not in batches]
    without = sorted(set(asked) - set(recorded))
    if without and not all(recorded[batch].all() for batch in of_none):
        table = f"mdata[{modality!r}].varm[{PANEL_KEY!r}]"
        warnings.warn(
            f"Modality {modality!r}: panels are recorded for {of_none}, none of which is a batch here, "
            f"but not for {without}. Features that were not measured may count as zeros. If a batch "
            f"was renamed, rename its panel: {table} = {table}.rename(columns={{{of_none[0]!r}: "
            f"{without[0]!r}}}). If these are names of another column, pass it as `batch_key`.",
            UserWarning,
            stacklevel=2,
        )


def warn_beyond(beyond: np.ndarray, modality: str, batches: Sequence[str]) -> None:
    """Say that measured values are left out, since the query had a smaller panel of the batch.

    Parameters
    ----------
    beyond
        Features of every batch that are so, ``(n_batches, n_features)``.
    modality, batches
        Names.
    """
    for batch, features in zip(batches, beyond, strict=True):
        if features.any():
            warnings.warn(
                f"Modality {modality!r}: {features.sum()} features were measured in batch "
                f"{batch!r}, but not by the cells of that batch that this model was mapped with. "
                "It takes them for missing; ask the reference model about these cells.",
                UserWarning,
                stacklevel=2,
            )


def warn_blind(shown: np.ndarray, modality: str, batches: Sequence[str]) -> None:
    """Say that cells of a query show no feature of the reference: all look the same to it.

    Parameters
    ----------
    shown
        Features of the reference that some cell of the batch shows, ``(n_batches, n_features)``.
    modality, batches
        Names, of batches with cells in the modality.
    """
    blind = [batch for batch, features in zip(batches, shown, strict=True) if not features.any()]
    if blind:
        warnings.warn(
            f"Modality {modality!r}: no cell of batch {blind[0]!r} shows any of the "
            f"{shown.shape[1]} features of the reference, so this modality tells nothing of these "
            "cells. Are the names of their features of another kind (gene ids, symbols, suffixes)? "
            f"Rename them, or drop the cells from mdata[{modality!r}].",
            UserWarning,
            stacklevel=2,
        )


def given_panel(
    panels: Mapping[str, Sequence[str]], modality: str, batches: Sequence[str], names: np.ndarray
) -> np.ndarray:
    """Panel `F_m` from lists of measured features per batch; batches not listed measured all."""
    panels = {category_name(batch): features for batch, features in panels.items()}
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


def log_panel(
    panel: np.ndarray, modality: str, batches: Sequence[str], of_query: bool = False
) -> None:
    """Say which batches measured only a part of the features, and how to choose otherwise."""
    partial = [
        f"batch {batch!r} measured {measured.sum()}"
        for batch, measured in zip(batches, panel, strict=True)
        if not measured.all()
    ]
    if partial:
        logger.info(
            "Panel of %r: %s of %d features; the others are masked there (%s to choose otherwise).",
            modality,
            ", ".join(partial),
            panel.shape[1],
            f"set varm[{PANEL_KEY!r}], booleans, features x batches,"
            if of_query
            else "set `panels`",
        )
