"""Means of the losses over an epoch, without a word to the trainer in between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scvi.module.base import LossOutput


class EpochMeans:
    """Sums up on the device what every minibatch lost.

    Telling the trainer of six quantities in every step costs more than a step of a small model,
    and on a GPU each number would be waited for.
    """

    def __init__(self):
        self._sums: dict[str, torch.Tensor] = {}
        self._n_cells, self._n_batches = 0, 0

    def add(self, losses: LossOutput) -> None:
        """Take in the losses of one minibatch."""
        n_cells = losses.n_obs_minibatch
        values = {
            "loss": losses.loss * n_cells,
            "reconstruction_loss": losses.reconstruction_loss_sum,
            "kl_local": losses.kl_local_sum,
            "kl_global": losses.kl_global_sum,
        }
        values |= {name: value * n_cells for name, value in losses.extra_metrics.items()}
        with torch.no_grad():
            for name, value in values.items():
                value = value.detach()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._n_cells += n_cells
        self._n_batches += 1

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Means per cell (of ``kl_global``: per minibatch) so far, and start anew.

        Parameters
        ----------
        reduce
            Sums a tensor over processes.
        """
        if not self._n_batches:
            return {}
        numbers = torch.stack([value.float() for value in self._sums.values()])
        counts = numbers.new_tensor([self._n_cells, self._n_batches])
        *sums, n_cells, n_batches = reduce(torch.cat([numbers, counts])).tolist()
        means = {name: total / n_cells for name, total in zip(self._sums, sums, strict=True)}
        means["kl_global"] *= n_cells / n_batches
        means["elbo"] = means["reconstruction_loss"] + means["kl_local"]
        self.__init__()
        return means
