"""Fitting of the label head to the latent space of a trained model."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from mumask.data import keys

from ._calibration import CalibrationMixin

# Steps of the head: as many as the model had, within these bounds.
MIN_STEPS, MAX_STEPS = 100, 1000
# Up to so many modalities every subset of them is a view of a cell, beyond it one and all.
ALL_SUBSETS = 3


class LabelFittingMixin(CalibrationMixin):
    """``_fit_label_head``."""

    def _fit_label_head(self) -> None:
        """Fit the label head to labelled and unlabelled cells, seen through what they have.

        A cell counts once per set of its modalities, so that it can later be labelled from any.
        Labels of cells that no weight was fitted to stay hidden: the calibration needs them.
        """
        head = self.module.label_head
        if head is None:
            return
        codes = self.adata_manager.get_from_registry(keys.LABELS).ravel().astype(np.int64)
        codes[self._unfitted_cells()] = self.module.n_classes
        everyone, z, labels = np.arange(self.adata.n_obs), [], []
        for view in self._views():
            columns, start = self._source_columns(view), 0
            for tensors, out, _ in self._encode(self.adata, everyone, None, view):
                complete = tensors[keys.PRESENCE].cpu()[:, columns].all(dim=1)
                z.append(out["corrected"][complete.to(self.device)])
                labels.append(torch.as_tensor(codes[start : start + len(complete)])[complete])
                start += len(complete)
        n_steps = min(MAX_STEPS, max(MIN_STEPS, self.trainer.global_step))
        head.fit(torch.cat(z).clone(), torch.cat(labels).to(self.device), n_steps)

    def _views(self) -> list[list[str]]:
        names = self.modalities
        sizes = range(1, len(names) + 1) if len(names) <= ALL_SUBSETS else (1, len(names))
        return [list(view) for size in sizes for view in combinations(names, size)]
