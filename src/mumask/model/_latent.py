"""Latent space of a masked model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mudata import MuData

from ._encode import EncodeMixin


class LatentMixin(EncodeMixin):
    """Means and variances of the posterior, and how well the model fits."""

    _has_posterior = True

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

        Examples
        --------
        >>> mdata.obsm["X_mumask"] = model.get_latent_representation()
        >>> mdata.obsm["X_mumask"].shape
        (180, 20)
        >>> from_rna = model.get_latent_representation(source="rna", indices=["CITE-seq_0"])
        >>> mean, variance = model.get_latent_representation(return_dist=True)
        """
        mdata, cells = self._cells(mdata, indices)
        n = self.module.n_latent

        def read(_, out: dict) -> torch.Tensor:
            mean = out["corrected"] if corrected else out["mean"]
            return torch.cat([mean, out["log_var"].exp()], dim=1) if return_dist else mean

        width = 2 * n if return_dist else n
        values = self._collect(read, width, mdata, cells, source, batch_size)
        return (values[:, :n], values[:, n:]) if return_dist else values

    def get_elbo(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        batch_size: int | None = None,
    ) -> float:
        """Evidence lower bound, mean over cells: higher is better.

        The reconstruction part is scaled to full panels, one term per modality that a cell has. No
        term is weighted, whatever the weights of the training. One latent vector is drawn per cell,
        so two calls differ by a little unless ``scvi.settings.seed`` is set before each.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Nats per cell, up to constants of Gaussian modalities; NaN without any cell.

        Examples
        --------
        >>> model.get_elbo() < 0
        True
        """
        mdata, cells = self._cells(mdata, indices)
        total = 0.0
        for tensors in self._minibatches(mdata, cells, batch_size):
            _, _, losses = self.module(tensors)
            total -= float(losses.reconstruction_loss_sum + losses.kl_local_sum)
        return total / len(cells) if len(cells) else float("nan")
