"""Encoding cells minibatch by minibatch: what latent space, labels and decoding share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mudata import MuData

from mumask.data import keys

from ._access import AccessMixin


class EncodeMixin(AccessMixin):
    """From cells to what the encoder says of them."""

    def _encode(self, mdata, cells, batch_size, source):
        """Minibatch by minibatch: tensors, output of the encoder, cells that have a source."""
        columns = self._source_columns(source).to(self.device)
        for tensors in self._minibatches(mdata, cells, batch_size):
            chosen = tensors[keys.PRESENCE] & columns
            yield (
                tensors,
                self.module.inference(tensors, source=chosen, sample=False),
                chosen.any(dim=1),
            )

    def _collect(
        self,
        read: Callable[[dict, dict], torch.Tensor],
        n_columns: int,
        mdata: MuData,
        cells: np.ndarray,
        source: str | Sequence[str] | None,
        batch_size: int | None,
    ) -> np.ndarray:
        """Rows ``(n_cells, n_columns)`` that `read` makes of minibatches and the encoder's output.

        A cell without any source modality gets NaN, and a warning says how many there are.
        """
        parts, missing = [np.empty((0, n_columns), dtype=np.float32)], 0
        for tensors, out, has_source in self._encode(mdata, cells, batch_size, source):
            rows = read(tensors, out).masked_fill(~has_source[:, None], float("nan"))
            parts.append(rows.cpu().numpy())
            missing += int((~has_source).sum())
        self._warn_without_source(missing, source)
        return np.concatenate(parts)

    def get_reconstruction_error(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        source: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> dict[str, float]:
        """Reconstruction loss by modality, mean over the cells that have it: lower is better.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        source
            Modalities to encode from, by default all that a cell has: the error of translating
            from these.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Loss per cell, scaled to full panels, of every modality that some cell has: a sum over
        features, or in :class:`~mumask.CrossAttentionMAE` the mean squared error of a standardised
        feature.

        Examples
        --------
        >>> errors = model.get_reconstruction_error(source="rna")
        >>> sorted(errors)
        ['protein', 'rna']
        """
        mdata, cells = self._cells(mdata, indices)
        total, count = dict.fromkeys(self.modalities, 0.0), dict.fromkeys(self.modalities, 0)
        for tensors, out, has_source in self._encode(mdata, cells, batch_size, source):
            target = tensors[keys.PRESENCE] & has_source[:, None]
            hidden = self.module.generative(**self.module._get_generative_input(tensors, out))[
                "hidden"
            ]
            losses = self.module.reconstruction(tensors, hidden, target)
            for column, name in enumerate(self.modalities):
                total[name] += float(losses[name].sum())
                count[name] += int(target[:, column].sum())
        return {name: total[name] / count[name] for name in total if count[name]}
