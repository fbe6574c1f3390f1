"""From cell indices to one minibatch of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from . import _keys
from ._blocks import bytes_per_row, is_backed, read_rows, to_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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

    def read(self, rows: np.ndarray):
        """Values of the given rows, array or CSR of shape ``(len(rows), n_features)``."""
        if self.values is None:
            return np.zeros((0, self.n_features), dtype=np.float32)
        return read_rows(self.values, rows, self.columns)

    def read_mask(self, rows: np.ndarray) -> np.ndarray:
        """Measured elements of the given rows, booleans of shape ``(len(rows), n_features)``."""
        if self.values is None:
            return np.zeros((0, self.n_features), dtype=bool)
        block = read_rows(self.mask, rows, self.columns)
        return (block.toarray() if hasattr(block, "toarray") else block) > 0


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
        index = np.arange(len(self))[indices] if isinstance(indices, slice) else indices
        return next(self.minibatches([np.atleast_1d(index)]))

    def minibatches(self, groups: Sequence[np.ndarray]) -> Iterator[dict[str, torch.Tensor]]:
        """Minibatches of the given cells, all read at once: one access costs as much as many."""
        cells = np.concatenate(groups)
        per_cell = {key: values[cells] for key, values in self.per_cell.items()}
        loaded = {}
        for name, modality in self.rows.items():
            rows = modality.row_of_cell[cells]
            first = np.concatenate([[0], np.cumsum(rows >= 0)])  # row of the block by cell
            rows = rows[rows >= 0]
            mask = None if modality.mask is None else modality.read_mask(rows)
            loaded[name] = (first, modality.read(rows), mask)
        stop = 0
        for group in groups:
            start, stop = stop, stop + len(group)
            batch = {key: torch.from_numpy(values[start:stop]) for key, values in per_cell.items()}
            for name, (first, values, mask) in loaded.items():
                part = slice(first[start], first[stop])
                batch[_keys.values_key(name)] = to_tensor(values, part)
                if mask is not None:
                    batch[_keys.mask_key(name)] = to_tensor(mask, part)
            yield batch

    @property
    def bytes_per_cell(self) -> float:
        """Memory of a cell that has all modalities."""
        matrices = [rows.values for rows in self.rows.values() if rows.values is not None]
        return sum(bytes_per_row(matrix) for matrix in matrices)

    def order_in_file(self) -> np.ndarray | None:
        """Place of every cell in the file, shape ``(n_obs,)``; None if everything is in memory.

        That is its row in the largest modality that it has among those in files.
        """
        backed = [rows for rows in self.rows.values() if is_backed(rows.values)]
        place = np.full(len(self), -1)
        offset = 0
        for rows in sorted(backed, key=lambda rows: -bytes_per_row(rows.values)):
            new = (place < 0) & (rows.row_of_cell >= 0)
            place[new] = offset + rows.row_of_cell[new]
            offset += len(rows.row_of_cell)
        return place if backed else None
