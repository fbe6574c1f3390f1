"""Data drawn anew from a model: what it would have measured in the same cells."""

from __future__ import annotations

from collections.abc import Sequence

import sparse
from mudata import MuData

from ._decode import DecodeMixin, check_n_samples


class PredictiveMixin(DecodeMixin):
    """Draws from the posterior predictive distribution of models that have a posterior."""

    def posterior_predictive_sample(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        modalities: Sequence[str] | None = None,
        n_samples: int = 1,
        batch_size: int | None = None,
    ) -> dict[str, sparse.GCXS]:
        """Draw the measurements of cells anew, with the noise of counts.

        For every draw a latent vector is taken from the posterior of the cell, which is encoded
        from everything that it has, and values from the likelihood, at the cell's own totals (with
        ``"zinb"`` before its further zeros, so that draws add up to less). What differs between
        these and the data is what the model does not describe:
        ``scvi.criticism.PosteriorPredictiveCheck`` compares them.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        modalities
            Modalities to draw; all by default.
        n_samples
            Draws.
        batch_size
            Cells per minibatch.

        Returns
        -------
        By modality, a sparse array of the cells that have it, ``(n_cells, n_features)``, or with
        more than one draw ``(n_cells, n_features, n_samples)``, in the order of the cells asked
        for, ``mdata.obs_names`` by default; that of the modality may be another. Elements that were not measured
        (outside of a panel, or masked by a layer) are 0. Set ``scvi.settings.seed`` for the same
        draws again.

        Examples
        --------
        >>> drawn = model.posterior_predictive_sample(modalities=["protein"], n_samples=5)
        >>> drawn["protein"].shape  # 120 of the 180 cells have proteins
        (120, 12, 5)
        """
        wanted = self._wanted(modalities)
        check_n_samples(n_samples)
        mdata, cells = self._cells(mdata, indices)
        parts = {m: [] for m in wanted}
        for tensors, _, hidden in self._decoded(mdata, cells, None, [None], batch_size, n_samples):
            draws = {m: [] for m in wanted}
            for (of_draw,) in hidden:
                for name in wanted:
                    values = self._measured_anew(tensors, of_draw, name)
                    draws[name].append(sparse.COO.from_numpy(values))
            for name, of_cells in draws.items():
                parts[name].append(sparse.stack(of_cells, axis=-1))
        drawn = {}
        for name, found in parts.items():
            shape = (0, len(self.feature_names(name)), n_samples)
            values = sparse.concatenate(found) if found else sparse.zeros(shape, dtype="float32")
            values = values[..., 0] if n_samples == 1 else values
            drawn[name] = sparse.GCXS(values, compressed_axes=(0,))
        return drawn

    def _measured_anew(self, tensors, hidden, name: str):
        """One draw of a modality for the cells of a minibatch that have it."""
        module = self.module
        rows = module.rows_of(tensors, name)
        total = module.measured_total(tensors, name).clamp(min=1.0)
        mask = module.measured(tensors, name)
        return module.drawn(hidden[rows], name, total, mask).cpu().numpy()
