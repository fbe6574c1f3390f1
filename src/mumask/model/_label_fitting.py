"""Fitting of a label head to the embeddings of a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mumask.data import keys

from ._calibration import CalibrationMixin

# Steps of MaskedVAE's head: as many as the model had, within these bounds.
MIN_STEPS, MAX_STEPS = 100, 1000


class LabelFittingMixin(CalibrationMixin):
    """Cells as a label head meets them: seen through all that they have, and through less."""

    def _seen_through(
        self, views: Sequence[Sequence[str]]
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, torch.Tensor]:
        """Every cell through every view.

        The first view shows what a cell has of it; the others only cells that have all of theirs.

        Returns
        -------
        Embeddings ``(n, n_latent)``, their sources ``(n, M)``, which cell each is, and how often
        to draw it: the first view as often as all the others together, and once more.
        """
        z, source, cell, repeats = [], [], [], []
        everyone = np.arange(self.adata.n_obs)
        for number, view in enumerate(views):
            columns, start = self._source_columns(view).to(self.device), 0
            for tensors, out, has_source in self._encode(self.adata, everyone, None, view):
                presence = tensors[keys.PRESENCE]
                shown = presence[:, columns].all(dim=1) if number else has_source
                z.append(out["corrected"][shown])
                source.append(presence[shown] & columns)
                often = 1 if number else len(views)
                repeats.append(torch.full((len(z[-1]),), often, device=self.device))
                cell.append(start + shown.nonzero().squeeze(1).cpu().numpy())
                start += len(shown)
        return torch.cat(z), torch.cat(source), np.concatenate(cell), torch.cat(repeats)

    def _head_fitter(
        self, fit: Callable[..., None], labels: np.ndarray, views: Sequence[Sequence[str]]
    ) -> Callable[[int, np.ndarray], None]:
        """Function of steps and cells to leave out that fits a head to all others.

        Cells are left out entirely: of unlabelled cells, too, a head becomes surer than of new ones.
        """
        z, source, cell, repeats = self._seen_through(views)
        codes = torch.as_tensor(labels[cell].astype(np.int64), device=z.device)

        def fit_without(n_steps: int, without: np.ndarray) -> None:
            rows = torch.as_tensor(~np.isin(cell, without), device=z.device)
            fit(z[rows], source[rows], codes[rows], n_steps=n_steps, repeats=repeats[rows])
            self.module.eval()

        return fit_without

    def _labels_to_learn(self) -> np.ndarray:
        """Codes of the labels of the data, of which at least one is a class of the model."""
        if keys.LABELS not in self.registry_["field_registries"]:
            raise ValueError(
                "There are no labels to learn: register them with setup_mudata(labels_key=...)."
            )
        state = self._state(keys.LABELS)
        (field,) = (f for f in self.adata_manager.fields if f.registry_key == keys.LABELS)
        strange = field.unknown(self.adata, state)
        if strange:
            warnings.warn(
                f"Labels {strange} of {state['original_key']!r} are not among the classes of the "
                f"model, {self.classes}: their cells count as unlabelled. Make a new model to "
                "learn them.",
                UserWarning,
                stacklevel=3,
            )
        labels = np.asarray(self.adata_manager.get_from_registry(keys.LABELS)).ravel()
        if not (labels < self.module.n_classes).any():
            raise ValueError(
                f"No cell has a label that the model knows, {self.classes}: training needs some "
                "labelled cells. A query can be labelled without, by predict()."
            )
        return labels

    def _forget_labels(self) -> None:
        self.known_types_ = None
        if self.module.label_head is not None:
            self.module.label_head.fitted.fill_(False)

    def _fit_label_head(self, held_for_calibration: bool) -> None:
        """Fit MaskedVAE's label head after training, and learn how sure to be of it.

        That needs labels that no weight was fitted to. Were they held back for nothing else, they
        are learned afterwards: of a rare type every cell counts.
        """
        head = self.module.label_head
        if head is None:
            return self._calibrate()
        labels = self.adata_manager.get_from_registry(keys.LABELS).ravel()
        fit_without = self._head_fitter(head.fit, labels, self._views())
        n_steps = min(MAX_STEPS, max(MIN_STEPS, self.trainer.global_step))
        held = self._unfitted_cells()
        fit_without(n_steps, held)
        self._calibrate()
        if held_for_calibration and len(held):
            fit_without(n_steps, held[:0])
