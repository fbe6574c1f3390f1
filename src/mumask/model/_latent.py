"""Latent space of a masked model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mudata import MuData

from mumask.data import keys

from ._access import AccessMixin


class LatentMixin(AccessMixin):
    """Encoding cells, and how well the model fits them."""

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

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        source: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        corrected: bool = True,
        return_dist: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Latent representation of cells.

        Parameters
        ----------
        mdata
            Data; by default those of the model. Features are matched by name.
        indices
            Cells, as numbers, booleans or names; all by default.
        source
            Modalities to encode from; by default all that a cell has.
        batch_size
            Cells per minibatch.
        corrected
            With latent arithmetic (:class:`~mumask.MaskedVAE`): remove the covariates' vectors
            (`Z2` of the paper) or leave them in (`mu`). Without it both are the same.
        return_dist
            Also return the variance of the posterior.

        Returns
        -------
        Means of shape ``(n_cells, n_latent)``, and variances if asked for. A cell without any
        source modality gets NaN and a warning.
        """
        mdata, cells = self._cells(mdata, indices)
        means, variances, missing = [], [], 0
        for _, out, has_source in self._encode(mdata, cells, batch_size, source):
            mean = out["corrected"] if corrected else out["mean"]
            variance = out["log_var"].exp()
            missing += int((~has_source).sum())
            for values, parts in ((mean, means), (variance, variances)):
                parts.append(values.masked_fill(~has_source[:, None], float("nan")).cpu())
        self._warn_without_source(missing, source)
        if not means:
            empty = np.empty((0, self.module.n_latent), dtype=np.float32)
            return (empty, empty.copy()) if return_dist else empty
        mean = torch.cat(means).numpy()
        return (mean, torch.cat(variances).numpy()) if return_dist else mean

    def get_elbo(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        batch_size: int | None = None,
    ) -> float:
        """Evidence lower bound, mean over cells: higher is better.

        The reconstruction part is scaled to full panels, one term per modality that a cell has.
        """
        mdata, cells = self._cells(mdata, indices)
        total = 0.0
        for tensors in self._minibatches(mdata, cells, batch_size):
            _, _, losses = self.module(tensors)
            total -= float(losses.reconstruction_loss_sum + losses.kl_local_sum)
        return total / max(1, len(cells))

    def get_reconstruction_error(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        source: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> dict[str, float]:
        """Negative log-likelihood by modality, mean over the cells that have it: lower is better.

        With `source`, the error of translating from these modalities.
        """
        mdata, cells = self._cells(mdata, indices)
        total, count = dict.fromkeys(self.modalities, 0.0), dict.fromkeys(self.modalities, 0)
        for tensors, out, has_source in self._encode(mdata, cells, batch_size, source):
            target = tensors[keys.PRESENCE] & has_source[:, None]
            hidden = self.module.generative(tensors, out["mean"], self.module.covariates(tensors))[
                "hidden"
            ]
            losses = self.module.reconstruction(tensors, hidden, target)
            for column, name in enumerate(self.modalities):
                total[name] += float(losses[name].sum())
                count[name] += int(target[:, column].sum())
        return {name: total[name] / count[name] for name in total if count[name]}
