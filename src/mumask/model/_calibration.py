"""What a model remembers of its labelled cells: how sure to be, and what is unlike all of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from sklearn.covariance import ledoit_wolf
from torch.nn import functional as F

from mumask.data import keys

from ._labels import LabelsMixin

# Share of the labelled reference cells that are at most as unusual as a cell that is not flagged.
KNOWN_SHARE = 0.99
N_LEVELS = 201


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Temperature that makes softmax probabilities fit the labels (Guo et al., ICML 2017)."""
    log_t = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], lr=0.1, max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_t.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_t.detach().exp().clamp(0.2, 10.0))


def class_distance(z: np.ndarray, means: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of each row to the nearest class mean, shape ``(n,)``."""
    nearest = np.full(len(z), np.inf)
    for mean in means:
        d = z - mean
        nearest = np.minimum(nearest, np.einsum("ij,jk,ik->i", d, precision, d))
    return nearest


class CalibrationMixin(LabelsMixin):
    """Calibrated probabilities and the recognition of cell types that the reference lacks."""

    # Class means, shared precision and quantiles of distances; None without labels.
    known_types_ = None

    def _calibrate(self) -> None:
        """Fit temperature and class statistics after training with labels.

        The temperature comes from the labelled validation cells, which no weight was fitted to;
        without enough of them it stays 1.
        """
        if keys.LABELS not in self.registry_["field_registries"]:
            return
        codes = self.adata_manager.get_from_registry(keys.LABELS).ravel()
        labelled = np.flatnonzero(codes < self.module.n_classes)
        cells = (
            labelled if self.train_indices is None else np.intersect1d(labelled, self.train_indices)
        )
        cells = cells if len(cells) else labelled  # few labels may all have been set aside
        held = np.intersect1d(labelled, self._unfitted_cells())
        self._calibrate_on(codes, cells, held)

    def _calibrate_on(self, codes: np.ndarray, cells: np.ndarray, held: np.ndarray) -> None:
        """Class statistics of labelled `cells`; how sure to be from `held` ones, if enough."""
        z = self._corrected(self.adata, cells)
        means, within = [], []
        for code in np.unique(codes[cells]):
            members = z[codes[cells] == code]
            means.append(members.mean(axis=0))
            within.append(members - means[-1])
        covariance = ledoit_wolf(np.concatenate(within), assume_centered=True)[0]
        # One labelled cell per class says nothing of the spread within: a share of the total does.
        ridge = 1e-3 * z.var(axis=0).mean() + 1e-12
        precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
        self.temperature_ = 1.0
        if len(held) >= 5 * self.module.n_classes:
            logits = self._logits(held)
            self.temperature_ = fit_temperature(logits, torch.as_tensor(codes[held]))
            cells, z = held, self._corrected(self.adata, held)
        self.known_types_ = {"means": np.stack(means), "precision": precision}
        levels = np.linspace(0, 1, N_LEVELS)
        distance = class_distance(z, self.known_types_["means"], precision)
        self.known_types_["distance"] = np.quantile(distance, levels)
        uncertainty = self.get_label_uncertainty(indices=cells)
        self.known_types_["uncertainty"] = np.quantile(uncertainty, levels)

    def _corrected(self, mdata, cells, source=None, batch_size=None) -> np.ndarray:
        """Corrected latent space, where distances to known types are measured."""
        n_latent = self.module.n_latent
        read = itemgetter("corrected")
        return self._collect(read, n_latent, mdata, cells, source, batch_size)

    def _unfitted_cells(self) -> np.ndarray:
        parts = [i for i in (self.validation_indices, self.test_indices) if i is not None]
        return np.concatenate(parts).astype(int) if parts else np.empty(0, dtype=int)

    def _logits(self, cells: np.ndarray) -> torch.Tensor:
        parts = [out["logits"].cpu() for _, out, _ in self._encode(self.adata, cells, None, None)]
        return torch.cat(parts).clone()

    def get_novelty(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        source: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> pd.Series:
        """How unlike a cell is to every labelled cell type of the reference.

        A new type lies far from all known ones, or between some of them. So the value is the
        greater of two shares: of labelled reference cells that are nearer to their class mean
        (Mahalanobis distance in the corrected latent space), and of those with a more certain
        label. 0.5 is ordinary, values near 1 speak for a cell type that the reference lacks
        (identification of new types of inClust). Beyond the farthest reference cell the value
        exceeds 1 and grows with the distance, so that ranks stay meaningful.

        Returns
        -------
        Series by cell; NaN for a cell without any source modality.

        Examples
        --------
        >>> novelty = model.get_novelty()
        >>> bool((novelty > 0.99).mean() < 0.5)
        True
        """
        if self.known_types_ is None:
            raise ValueError("Train the model with labels first: setup_mudata(labels_key=...).")
        mdata, cells = self._cells(mdata, indices)
        z = self._corrected(mdata, cells, source, batch_size)
        uncertainty = self.get_label_uncertainty(mdata, cells, source=source, batch_size=batch_size)
        known, levels = self.known_types_, np.linspace(0, 1, N_LEVELS)
        distance = class_distance(z, known["means"], known["precision"])
        novelty = np.maximum(
            np.interp(distance, known["distance"], levels),
            np.interp(uncertainty, known["uncertainty"], levels),
        )
        farthest = known["distance"][-1]
        novelty = np.where(distance > farthest, distance / farthest, novelty)
        novelty[np.isnan(z).any(axis=1)] = np.nan
        return pd.Series(novelty, index=mdata.obs_names[cells], name="mumask_novelty")

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
        known_share
            Share of the labelled reference cells that would not be flagged as a new type.

        Returns
        -------
        Data frame by cell: ``mumask_label``, ``mumask_uncertainty``, ``mumask_novelty`` and
        ``mumask_new_type`` (boolean).

        Examples
        --------
        >>> table = model.annotate()
        >>> list(table)
        ['mumask_label', 'mumask_uncertainty', 'mumask_novelty', 'mumask_new_type']
        >>> mdata.obs[table.columns] = table
        """
        options = {"source": source, "batch_size": batch_size}
        mdata, cells = self._cells(mdata, indices)
        table = pd.concat(
            [
                self.predict(mdata, cells, **options),
                self.get_label_uncertainty(mdata, cells, **options),
                self.get_novelty(mdata, cells, **options),
            ],
            axis=1,
        )
        table["mumask_new_type"] = table["mumask_novelty"] > known_share
        return table
