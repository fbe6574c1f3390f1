"""Reading a minibatch of a mosaic: what both modules ask of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mumask.data import keys
from mumask.nn import both, row_sums, through_panels

from ._modality_spec import ModalitySpec


class MosaicBatch:
    """Rows, panels, measured elements and covariates; needs ``names``."""

    def register_panels(self, modalities: Mapping[str, ModalitySpec], random: bool) -> None:
        """Buffers of every modality, None for what makes no difference.

        ``panel_<name>``, the features of every batch, ``(n_batches, n_features)``;
        ``lacking_<name>``, of the same shape, what a panel lacks that no training saw; and, with
        `random`, ``drawn_<name>``, the different panels that training looks through.
        """
        for name, spec in modalities.items():
            panel = None if spec.panel.all() else torch.as_tensor(spec.panel)
            self.register_buffer(f"panel_{name}", panel)
            lacking = None
            if spec.new_panel is not None and spec.new_panel.any():
                lacking = torch.as_tensor(~spec.panel & spec.new_panel[:, None])
            self.register_buffer(f"lacking_{name}", lacking, persistent=False)
            panels = np.unique(spec.panel, axis=0)
            drawn = torch.as_tensor(panels) if random and len(panels) > 1 else None
            self.register_buffer(f"drawn_{name}", drawn, persistent=False)

    def through_random_panel(
        self, tensors: Mapping[str, torch.Tensor], modality: str, visible: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What is visible ``(n_m, n_features)`` of cells, each seen through a random panel."""
        panels = getattr(self, f"drawn_{modality}")
        if panels is None:
            return visible
        if visible is None:
            visible = panels.new_ones(len(self.rows_of(tensors, modality)), panels.shape[1])
        return through_panels(visible, panels)

    def _get_inference_input(self, tensors, full_forward_pass: bool = False) -> dict:
        return {"tensors": tensors}

    def rows_of(self, tensors: Mapping[str, torch.Tensor], modality: str) -> torch.Tensor:
        """Cells of the minibatch that have the modality, shape ``(n_m,)``."""
        return tensors[keys.PRESENCE][:, self.names.index(modality)].nonzero().squeeze(1)

    def measured(self, tensors: Mapping[str, torch.Tensor], modality: str) -> torch.Tensor | None:
        """Presence x panel x element mask: booleans ``(n_m, n_features)``, None if all."""
        panel = getattr(self, f"panel_{modality}")
        if panel is not None:
            panel = panel[tensors[keys.BATCH][self.rows_of(tensors, modality), 0]]
            panel = None if panel.all() else panel
        return both(panel, tensors.get(keys.mask_key(modality)))

    def what_is_lacking(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Elements beyond panels that no training saw, ``(n_m, n_features)``, where there are any."""
        found = {}
        for name in self.names:
            lacking = getattr(self, f"lacking_{name}")
            if lacking is not None:
                lacking = lacking[tensors[keys.BATCH][self.rows_of(tensors, name), 0]]
                found |= {name: lacking} if lacking.any() else {}
        return found

    def covariates(self, tensors: Mapping[str, torch.Tensor]) -> dict:
        """Auxiliary information (input 2): codes, batch first, and continuous values."""
        codes = [tensors[keys.BATCH]]
        if keys.CAT_COVS in tensors:
            codes.append(tensors[keys.CAT_COVS])
        return {"categories": torch.cat(codes, 1), "continuous": tensors.get(keys.CONT_COVS)}

    def measured_total(self, tensors: Mapping[str, torch.Tensor], modality: str) -> torch.Tensor:
        """Sum of the measured values of the cells that have the modality, shape ``(n_m, 1)``."""
        x = tensors[keys.values_key(modality)]
        return row_sums(x, self.measured(tensors, modality))
