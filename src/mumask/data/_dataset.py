"""From cell indices to one minibatch of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from . import _keys
from ._blocks import read_rows, to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._manager import MosaicManager


@dataclass
class ModalityRows:
    """Where the rows and columns of one modality lie.

    Attributes
    ----------
    row_of_cell
        Row of every cell, -1 where absent, shape ``(n_obs,)``.
    values, mask
        Matrix of values and, if there is one, of measured elements; None: no cell has the modality.
    columns
        Column of every reference feature (-1: not there), or None if in order.
    n_features
        Number of reference features.
    """

    row_of_cell: np.ndarray
    values: object | None
    mask: object | None
    columns: np.ndarray | None
    n_features: int

    def read(self, rows: np.ndarray) -> torch.Tensor:
        """Values of the given rows, shape ``(len(rows), n_features)``."""
        if self.values is None:
            return torch.zeros(0, self.n_features)
        return to_tensor(read_rows(self.values, rows, self.columns))

    def read_mask(self, rows: np.ndarray) -> torch.Tensor:
        """Measured elements of the given rows, shape ``(len(rows), n_features)``."""
        if self.values is None:
            return torch.zeros(0, self.n_features, dtype=torch.bool)
        block = read_rows(self.mask, rows, self.columns)
        return torch.from_numpy(
            np.asarray(block.todense() if hasattr(block, "todense") else block) > 0
        )


class MosaicDataset(Dataset):
    """Minibatches of a mosaic.

    A minibatch holds, for B cells and M modalities: ``presence`` (bool, ``(B, M)``), for every
    modality its values *only for the cells that have it* (``X_<modality>``, in the order of the
    cells; dense or CSR), and one row per cell of batch, labels and covariates.

    Parameters
    ----------
    manager
        Manager with a registered MuData.
    keys
        Keys of the minibatch to load; None for all. ``presence`` always comes along.
    """

    def __init__(self, manager: MosaicManager, keys: Sequence[str] | None = None):
        self.rows = {name: manager.rows(name) for name in manager.modalities}
        present = [rows.row_of_cell >= 0 for rows in self.rows.values()]
        self.per_cell = {_keys.PRESENCE: np.stack(present, axis=1)}
        for field in manager.fields:
            if field.registry_key not in {_keys.values_key(name) for name in self.rows}:
                self.per_cell[field.registry_key] = manager.get_from_registry(field.registry_key)
        if keys is not None:
            kept = {*keys, _keys.PRESENCE}
            self.rows = {k: v for k, v in self.rows.items() if _keys.values_key(k) in kept}
            self.per_cell = {k: v for k, v in self.per_cell.items() if k in kept}

    def __len__(self) -> int:
        return len(self.per_cell[_keys.PRESENCE])

    def __getitem__(self, indices) -> dict[str, torch.Tensor]:
        """One minibatch; a single index gives a minibatch of one cell."""
        index = np.atleast_1d(
            np.arange(len(self))[indices] if isinstance(indices, slice) else indices
        )
        batch = {key: torch.from_numpy(values[index]) for key, values in self.per_cell.items()}
        for name, modality in self.rows.items():
            rows = modality.row_of_cell[index]
            rows = rows[rows >= 0]
            batch[_keys.values_key(name)] = modality.read(rows)
            if modality.mask is not None:
                batch[_keys.mask_key(name)] = modality.read_mask(rows)
        return batch
