"""What a model remembers of its labelled cells: how sure to be, and what is unlike all of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scipy.optimize import minimize_scalar
from scipy.stats import t as student_t
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from mumask.data import keys, presence

from ._labels import LabelsMixin, entropy_share

logger = logging.getLogger("mumask")

# Share of the cells of known types that are not flagged as a new type.
KNOWN_SHARE = 0.99
# A cell is compared with its nearest labelled cells, of which the model keeps so many at most.
N_NEIGHBORS = 10
KEPT_CELLS = 10_000
# Held-back cells per type from which on a temperature is fitted to them.
LEAST_PER_TYPE = 5
TEMPERATURES = 0.2, 10.0  # the least and the most
LEVELS = np.linspace(0, 1, 1001)
# Known cells from which on their own quantiles tell what one in a hundred exceeds; with fewer, the
# logarithms of their distances are taken for normal. Fewer than the least say nothing of a view.
MANY_KNOWN, LEAST_PER_VIEW = 99, 3
# Up to so many modalities every subset of them is a view of a cell, beyond it one and all.
ALL_SUBSETS = 3


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature that makes softmax probabilities fit the labels (Guo et al., ICML 2017)."""
    logits, labels = torch.as_tensor(logits).double(), torch.as_tensor(labels).long()
    # One minimum, but nearly flat far above it, where steps along gradients do not get away.
    loss = lambda log_t: float(F.cross_entropy(logits / math.exp(log_t), labels))
    bounds = tuple(map(math.log, TEMPERATURES))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


class CalibrationMixin(LabelsMixin):
    """Calibrated probabilities and the recognition of cell types that the reference lacks."""

    def _calibrate(self) -> None:
        """Keep labelled cells after training with labels, and how sure and how far to be of them.

        Judged are labelled validation cells, which no weight was fitted to; without enough of
        them the temperature stays 1.
        """
        if keys.LABELS not in self.registry_["field_registries"]:
            return
        codes = self.adata_manager.get_from_registry(keys.LABELS).ravel()
        self._calibrate_on(codes, self._unfitted_cells())

    def _calibrate_on(self, codes: np.ndarray, held: np.ndarray) -> None:
        """Keep labelled cells other than `held`, which say, if enough, how sure and far to be."""
        labelled = np.flatnonzero(codes < self.module.n_classes)
        held = np.intersect1d(labelled, held)
        cells = np.setdiff1d(labelled, held)
        cells = cells if len(cells) else labelled  # few labels may all have been set aside
        least = LEAST_PER_TYPE * self.module.n_classes
        enough = len(held) >= least
        kept = _some_of_each(codes[cells], KEPT_CELLS)
        z, _ = self._latent_and_logits(self.adata, cells[kept])
        k = max(1, min(N_NEIGHBORS, len(cells) // self.module.n_classes))
        self.known_types_ = {"cells": z, "n_neighbors": k, "views": []}
        judged = held if enough else cells[kept]
        has = presence(self.adata, self.modalities)[judged]
        _, logits = self._latent_and_logits(self.adata, judged)
        overall = fit_temperature(logits, codes[judged]) if enough else 1.0
        if not enough:
            logger.warning(
                "Novelty and uncertainty are judged by cells of the training, which are closer to "
                "each other than new cells are to them: %d labelled cells were held back for that, "
                "and %d would be needed.",
                len(held),
                least,
            )
        views = self._views()
        columns = [[m in view for m in self.modalities] for view in views]
        shown = [has[:, column].all(axis=1) for column in columns]
        if max(here.sum() for here in shown) < LEAST_PER_VIEW:  # all at once, as they come
            views, shown = [self.modalities], [np.ones(len(judged), dtype=bool)]
        for view, here in zip(views, shown, strict=True):
            if len(views) == 1 or here.sum() >= LEAST_PER_VIEW:
                z, logits = self._latent_and_logits(self.adata, judged[here], view)
                itself = None if enough else np.flatnonzero(here)
                distance = self._distance(z, itself)
                logs = np.log(np.maximum(distance, 1e-12))
                # With less to go on the model is wrong more often, but not always less sure.
                fits = enough and here.sum() >= least
                self.known_types_["views"].append(
                    {
                        "modalities": view,
                        "n_cells": int(here.sum()),
                        "distance": np.quantile(distance, LEVELS),
                        "log_distance": [float(logs.mean()), float(logs.std(ddof=len(logs) > 1))],
                        "temperature": (
                            fit_temperature(logits, codes[judged[here]]) if fits else overall
                        ),
                    }
                )

    def _views(self) -> list[list[str]]:
        """Sets of modalities that a query may come with, the largest first."""
        names = self.modalities
        sizes = range(len(names), 0, -1) if len(names) <= ALL_SUBSETS else (len(names), 1)
        return [list(view) for size in sizes for view in combinations(names, size)]

    def _distance(self, z: np.ndarray, itself: np.ndarray | None = None) -> np.ndarray:
        """Mean distance to the nearest labelled cells, ``(n,)``; `itself` are cells not to count."""
        cells, k = self.known_types_["cells"], self.known_types_["n_neighbors"]
        distance, missing = np.full(len(z), np.nan), np.isnan(z).any(axis=1)
        if missing.all():
            return distance
        k = min(k + (itself is not None), len(cells))
        near, which = NearestNeighbors(n_neighbors=k).fit(cells).kneighbors(z[~missing])
        if itself is not None and k > 1:
            other = which != itself[:, None]
            other[other.all(axis=1), -1] = False  # beyond k cells in the same place
            near = near[other].reshape(len(z), k - 1)
        distance[~missing] = near.mean(axis=1)
        return distance

    def _latent_and_logits(self, mdata, cells, source=None, batch_size=None):
        """Corrected latent space, where distances to known types are measured, and logits."""
        n_latent = self.module.n_latent
        both = self._collect(
            lambda _, out: torch.cat([out["corrected"], out["logits"]], dim=1),
            n_latent + self.module.n_classes,
            mdata,
            cells,
            source,
            batch_size,
        )
        return both[:, :n_latent], both[:, n_latent:]

    def _unfitted_cells(self) -> np.ndarray:
        parts = [i for i in (self.validation_indices, self.test_indices) if i is not None]
        return np.concatenate(parts).astype(int) if parts else np.empty(0, dtype=int)

    def get_novelty(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        source: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> pd.Series:
        """How unlike a cell is to every labelled cell type of the reference.

        A new type lies far from the labelled cells. What is looked at is the mean distance to the
        nearest ten of them in the corrected latent space; the value is the share of known cells
        for which it is smaller, that is 1 less a conformal p-value: 0.5 is ordinary, and about
        1 % of the cells of known types exceed 0.99. Known cells are labelled cells that no label
        was learned from, seen through the modalities that the cell in question has; where too few
        were held back, those of the training, which are closer together than new cells are to
        them. Beyond the farthest of them the value exceeds 1 and grows with the distance, so that
        ranks stay meaningful. With fewer than 99 known cells the share is that of a new value among
        as many normal logarithms of distances (a prediction interval).

        The share holds for cells like those of the reference. Cells of another batch can be
        farther out as a whole.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        source
            Modalities to look at; by default all that a cell has.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Series by cell; NaN for a cell without any source modality.

        Examples
        --------
        >>> novelty = model.get_novelty()
        >>> bool((novelty > 0.99).mean() < 0.5)
        True
        """
        return self._annotate(mdata, indices, source, batch_size)["mumask_novelty"]

    def annotate(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        source: str | Sequence[str] | None = None,
        known_share: float = KNOWN_SHARE,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Everything about labels in one table, ready to be joined to ``mdata.obs``.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        source
            Modalities to look at; by default all that a cell has.
        known_share
            Share of the cells of known types that are not flagged as a new type.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Data frame by cell: ``mumask_label``, ``mumask_uncertainty``, ``mumask_novelty`` (see
        :meth:`get_novelty`) and ``mumask_new_type`` (boolean).

        Examples
        --------
        >>> table = model.annotate()
        >>> list(table)
        ['mumask_label', 'mumask_uncertainty', 'mumask_novelty', 'mumask_new_type']
        >>> mdata.obs[table.columns] = table
        """
        table = self._annotate(mdata, indices, source, batch_size)
        table["mumask_new_type"] = table["mumask_novelty"] > known_share
        return table

    def _annotate(self, mdata, indices, source, batch_size) -> pd.DataFrame:
        """Labels, uncertainty and novelty from one pass over the cells."""
        self._check_classifier()
        if self.known_types_ is None:
            raise ValueError(
                "The model remembers no labelled cells: register labels with "
                "setup_mudata(labels_key=...), then train with them. A checkpoint from the middle "
                "of a training has none yet either: save the model after it."
            )
        mdata, cells = self._cells(mdata, indices)
        z, logits = self._latent_and_logits(mdata, cells, source, batch_size)
        seen = self._seen(mdata, cells, source)
        probabilities = pd.DataFrame(self._probabilities(logits, seen), mdata.obs_names[cells])
        uncertainty = entropy_share(probabilities.to_numpy())
        table = self._labels_of(probabilities).to_frame()
        table["mumask_uncertainty"] = uncertainty
        table["mumask_novelty"] = self._novelty(seen, self._distance(z))
        return table

    def _novelty(self, seen: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Novelty of cells seen through the modalities `seen`, booleans ``(n, M)``."""
        novelty, of = np.full(len(seen), np.nan), self._view_of(seen)
        for number, known in enumerate(self.known_types_["views"]):
            here = seen.any(axis=1) & (of == number)
            n, farthest = known["n_cells"], known["distance"][-1]
            mean, deviation = known["log_distance"]
            if n < MANY_KNOWN and deviation > 0:  # of a new value among n normal ones
                scale = deviation * np.sqrt(1 + 1 / n)
                logs = np.log(np.maximum(distance[here], 1e-12))
                novelty[here] = student_t.cdf((logs - mean) / scale, df=n - 1)
                continue
            share = np.interp(distance[here], known["distance"], LEVELS) * n / (n + 1)
            beyond = distance[here] > farthest
            novelty[here] = np.where(beyond, distance[here] / max(farthest, 1e-12), share)
        return novelty


def _some_of_each(codes: np.ndarray, most: int) -> np.ndarray:
    """Cells of every class, no more than `most` over all and no class cut below its even share."""
    if len(codes) <= most:
        return np.arange(len(codes))
    each = max(1, most // len(np.unique(codes)))
    drawn = np.random.default_rng(0).permutation(len(codes))
    return np.sort(np.concatenate([drawn[codes[drawn] == c][:each] for c in np.unique(codes)]))
