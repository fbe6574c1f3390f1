"""Cell types predicted by the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from mumask.data import keys, presence

from ._encode import EncodeMixin


class LabelsMixin(EncodeMixin):
    """Labels, their probabilities and how uncertain they are."""

    # Labelled cells in the latent space and, by view of a cell (a set of modalities), the temperature
    # that divides its logits and quantiles of its distance to them; None without labels.
    known_types_ = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes; numbers where the clusters were learned without labels.

        Examples
        --------
        >>> model.classes == sorted(mdata.obs["cell_type"].unique())
        True
        """
        if keys.LABELS in self.registry_["field_registries"]:
            return list(self._state(keys.LABELS)["categorical_mapping"][:-1])
        return [str(k) for k in range(self.module.n_classes)]

    def _check_classifier(self) -> None:
        if not self.module.n_classes:
            raise ValueError(
                "The model has no classifier. Register labels with setup_mudata(labels_key=...), "
                "or learn clusters with n_clusters=... and prior='mixture'."
            )

    def predict(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        soft: bool = False,
        source: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Predict cell types (or learned clusters).

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        soft
            Return probabilities instead of the most likely class.
        source
            Modalities to predict from; by default all that a cell has.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Categorical series by cell, or with `soft` a data frame of cells x classes. A cell without
        any source modality gets NaN and a warning.

        Examples
        --------
        >>> labels = model.predict(source="rna", indices=mdata.obs["batch"] == "CITE-seq")
        >>> len(labels), labels.name
        (60, 'mumask_label')
        >>> model.predict(soft=True).shape
        (180, 3)
        """
        self._check_classifier()
        mdata, cells = self._cells(mdata, indices)
        logits = self._collect(
            lambda _, out: out["logits"], self.module.n_classes, mdata, cells, source, batch_size
        )
        probabilities = self._probabilities(logits, self._seen(mdata, cells, source))
        table = pd.DataFrame(probabilities, mdata.obs_names[cells], self.classes)
        return table if soft else self._labels_of(table)

    def _seen(self, mdata: MuData, cells: np.ndarray, source) -> np.ndarray:
        """Modalities that `cells` are seen through, booleans ``(n, M)``."""
        return presence(mdata, self.modalities)[cells] & self._source_columns(source).numpy()

    def _view_of(self, seen: np.ndarray) -> np.ndarray:
        """Number of the first calibrated view of which a cell has all, ``(n,)``; else the last."""
        views = self.known_types_["views"]
        of = np.full(len(seen), len(views) - 1)
        for number in reversed(range(len(views) - 1)):
            columns = [m in views[number]["modalities"] for m in self.modalities]
            of[seen[:, columns].all(axis=1)] = number
        return of

    def _probabilities(self, logits: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of logits ``(n, n_classes)``; NaN stays NaN."""
        if self.known_types_ is not None:
            views = self.known_types_["views"]
            temperature = np.array([view["temperature"] for view in views], dtype=logits.dtype)
            logits = logits / temperature[self._view_of(seen)][:, None]
        return torch.softmax(torch.as_tensor(logits), dim=1).numpy()

    def _labels_of(self, table: pd.DataFrame) -> pd.Series:
        """Most likely class of each row of probabilities; missing where they are."""
        unknown = table.isna().any(axis=1).to_numpy()
        codes = np.where(unknown, -1, table.fillna(0.0).to_numpy().argmax(axis=1))
        labels = pd.Categorical.from_codes(codes, categories=self.classes)
        return pd.Series(labels, index=table.index, name="mumask_label")

    def get_label_uncertainty(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        source: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> pd.Series:
        """Entropy of the predicted probabilities over its maximum: 0 certain, 1 no idea.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        source
            Modalities to predict from; by default all that a cell has.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Series by cell; NaN for a cell without any source modality.

        Examples
        --------
        >>> uncertainty = model.get_label_uncertainty()
        >>> bool(uncertainty.between(0, 1).all())
        True
        """
        table = self.predict(mdata, indices, soft=True, source=source, batch_size=batch_size)
        return pd.Series(entropy_share(table.to_numpy()), table.index, name="mumask_uncertainty")


def entropy_share(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of each row over the largest possible one, shape ``(n,)``."""
    p = probabilities.astype(np.float64)
    entropy = -(p * np.log(np.clip(p, 1e-12, None))).sum(axis=1) / np.log(p.shape[1])
    return entropy.clip(0, 1)
