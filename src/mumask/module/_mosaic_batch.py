"""Reading a minibatch of a mosaic: what both modules ask of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mumask.data import keys
from mumask.nn import both, row_sums


class MosaicBatch:
    """Rows, measured elements and covariates; needs ``names`` and the buffers ``panel_<name>``."""

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

    def covariates(self, tensors: Mapping[str, torch.Tensor]) -> dict:
        """Auxiliary information (input 2): codes, batch first, and continuous values."""
        codes = [tensors[keys.BATCH]]
        if keys.CAT_COVS in tensors:
            codes.append(tensors[keys.CAT_COVS])
        return {"categories": torch.cat(codes, 1), "continuous": tensors.get(keys.CONT_COVS)}

    def expected_total(self, hidden, modality: str) -> torch.Tensor | None:
        """Total that the model expects of decoded cells, ``(B, 1)``; None if it has no say."""
        return None

    def measured_total(self, tensors: Mapping[str, torch.Tensor], modality: str) -> torch.Tensor:
        """Sum of the measured values of the cells that have the modality, shape ``(n_m, 1)``."""
        x = tensors[keys.values_key(modality)]
        return row_sums(x, self.measured(tensors, modality))
