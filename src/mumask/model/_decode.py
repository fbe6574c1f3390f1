"""Decoded values: normalised expression and imputation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from numbers import Integral

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from mumask.data import keep_order, keys

from ._access import check_library_size, feature_columns, obsm_of
from ._encode import EncodeMixin
from ._off_panel import Trust, trust_off_panel


class DecodeMixin(EncodeMixin):
    """What the decoder says of cells."""

    _has_posterior = False

    def _decoded(self, mdata, cells, source, batches, batch_size, n_samples=None):
        """Minibatch by minibatch: tensors, cells with a source, hidden layers.

        The latter by latent point (the mean, or draws), one at a time, a list by batch asked for.
        """
        for tensors, out, has_source in self._encode(mdata, cells, batch_size, source):
            inputs = self.module._get_generative_input(tensors, out)
            hidden = (
                [self._hidden_as_if(inputs, point, code) for code in batches]
                for point in self._latent_points(out, n_samples)
            )
            yield tensors, has_source, hidden

    def _latent_points(self, out: dict, n_samples: int | None) -> Iterator[torch.Tensor]:
        """Corrected latent vectors to decode, each ``(B, n_latent)``."""
        if n_samples is None:
            yield out["corrected"]
            return
        deviation = (0.5 * out["log_var"]).exp()
        for _ in range(n_samples):
            yield out["corrected"] + torch.randn_like(deviation) * deviation

    def _hidden_as_if(self, inputs: dict, point: torch.Tensor, code: int | None) -> torch.Tensor:
        """Hidden layer of the decoder at latent points, as if from the batch `code`, or the own."""
        covariates = dict(inputs["covariates"])
        if code is not None:
            covariates["categories"] = covariates["categories"].clone()
            covariates["categories"][:, 0] = code
        z = self.module.to_decoder(point, covariates)
        return self.module.generative(**inputs | {"z": z, "covariates": covariates})["hidden"]

    def get_normalized_expression(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        modality: str | None = None,
        source: str | Sequence[str] | None = None,
        transform_batch: str | Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        library_size: float | None = None,
        batch_size: int | None = None,
        n_samples: int | None = None,
        return_mean: bool = True,
    ) -> pd.DataFrame | np.ndarray:
        """Decoded values of one modality, whether a cell has it or not.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        modality
            Modality to decode; the first by default.
        source
            Modalities to encode from; by default all that a cell has. ``source="rna",
            modality="protein"`` translates.
        transform_batch
            Decode as if from this batch, or the mean over several; by default each cell's own.
        features
            Names of the features to return; all by default.
        library_size
            Total to which counts are scaled, over all features. By default that of an average
            reference cell; for a modality that is generated, which is one that `source` leaves out
            or that the data do not have, the total that the model expects of each cell, if it
            learned one. For a binary modality the number of ones in a cell of that depth, about
            (what several counts on one feature add to it is learned over all cells); real values
            have none. With dropout (``"zinb"``) it is the total before dropout.
        batch_size
            Cells per minibatch.
        n_samples
            Draws from the posterior of each cell that are decoded (:class:`~mumask.MaskedVAE`). By
            default nothing is drawn, and the mean of the posterior is decoded.
        return_mean
            Return the mean over the draws; else all of them. How far they lie apart is what the
            model does not know of the state of a cell. It is not the noise of counts.

        Returns
        -------
        Data frame of cells x features: expected counts, probabilities (Bernoulli) or means. With
        `n_samples` and ``return_mean=False`` an array, ``(n_samples, n_cells, n_features)``.

        Examples
        --------
        >>> translated = model.get_normalized_expression(
        ...     source="rna", modality="protein", indices=mdata.obs["batch"] == "RNA-only"
        ... )
        >>> translated.shape
        (60, 12)
        >>> as_if = model.get_normalized_expression(modality="rna", transform_batch="CITE-seq")
        >>> draws = model.get_normalized_expression(n_samples=25, return_mean=False)
        >>> low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        >>> low.shape
        (180, 100)
        """
        modality = self.modalities[0] if modality is None else modality
        names = self.feature_names(modality)
        columns = feature_columns(names, features, modality)
        check_library_size(library_size)
        self._check_draws(n_samples, return_mean)
        mdata, cells = self._cells(mdata, indices)
        batches = self._batch_codes(transform_batch)
        known = [m for m in mdata.mod if mdata.mod[m].n_obs] if source is None else source
        generated = modality not in ([known] if isinstance(known, str) else known)
        expects = library_size is None and generated
        if library_size is None:
            library_size = float(self._state(keys.values_key(modality))["total"])
        kept = 1 if return_mean else n_samples
        values = np.full((kept, len(cells), len(columns)), np.nan, dtype=np.float32)
        start = missing = 0
        picked = torch.as_tensor(columns, device=self.device)
        for _, has_source, hidden in self._decoded(
            mdata, cells, source, batches, batch_size, n_samples
        ):
            total = torch.full((len(has_source), 1), library_size, device=self.device)
            if return_mean:
                hidden = [chain.from_iterable(hidden)]
            for draw, of_point in enumerate(hidden):
                mean = self._mean_over(of_point, modality, total, expects, features=picked)
                mean = mean.masked_fill(~has_source[:, None], float("nan"))
                values[draw, start : start + len(mean)] = mean.cpu().numpy()
            start += len(has_source)
            missing += int((~has_source).sum())
        self._warn_without_source(missing, source)
        if not return_mean:
            return values
        return pd.DataFrame(values[0], index=mdata.obs_names[cells], columns=names[columns])

    def _check_draws(self, n_samples: int | None, return_mean: bool) -> None:
        if n_samples is None and return_mean:
            return
        if not self._has_posterior:
            raise ValueError(
                f"{type(self).__name__} has no posterior to draw from: leave out `n_samples` and "
                "`return_mean`, or take MaskedVAE."
            )
        if n_samples is None:
            raise ValueError("`return_mean`=False asks for draws: say how many with `n_samples`.")
        check_n_samples(n_samples)

    def _mean_over(
        self, hidden: Iterable, modality: str, total, expects, mask=None, features=None
    ) -> torch.Tensor:
        """Expected values, mean over the batches that were decoded.

        Where `expects` (one boolean, or one per cell, ``(B, 1)``) is True, the total that the
        model expects of a cell takes the place of `total`.
        """
        summed, n = 0.0, 0
        for h in hidden:
            expected = self.module.expected_total(h, modality)
            if expected is None:
                expected = total
            else:
                chosen = torch.as_tensor(expects, device=total.device)
                expected = torch.where(chosen, expected, total)
            summed += self.module.expected(h, modality, expected, mask, features)
            n += 1
        return summed / n

    def impute(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        modalities: Sequence[str] | None = None,
        transform_batch: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> MuData:
        """Complete data: every cell with every modality and feature.

        What was measured is kept as it is. What is missing (a whole modality of a cell, a feature
        outside of its batch's panel, an element masked by a layer) is decoded from everything the
        cell has. Counts are imputed at the cell's own depth where it has the modality, at the
        depth that the model expects of it (or else that of an average reference cell) where not;
        with ``"zinb"`` that is the depth before its further zeros.

        Off the panel of a batch, counts of its cells differ less from their mean than the decoder
        says, as far as it is found to overstate differences: for that, features which the batch did
        measure (at least 20) are hidden from the model and decoded, in up to 1,000 cells of the
        batch, whichever cells are asked for. In data with fewer than 50 cells of it, nothing can be
        concluded, and decoded values are taken as they are.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        modalities
            Modalities to complete; all by default. The result is dense: choose for wide ones.
        transform_batch
            Decode missing values as if from this batch, or the mean over several.
        batch_size
            Cells per minibatch.

        Returns
        -------
        New MuData with the features of the model and the annotation of cells and features:
        columns of ``obs`` and ``var``, and ``obsm`` (NaN for cells that lack a modality). In each
        modality ``obs["imputed"]`` tells cells of which all values are decoded; where panels
        differ, ``varm["imputed"]`` (features x batches) the features outside of the panel of a
        batch, none for a batch without the modality.

        Examples
        --------
        >>> complete = model.impute()
        >>> {name: complete[name].shape for name in complete.mod}
        {'rna': (180, 100), 'protein': (180, 12), 'atac': (180, 150)}
        >>> int(complete["protein"].obs["imputed"].sum())
        60
        """
        wanted = self._wanted(modalities)
        mdata, cells = self._cells(mdata, indices)
        batches = self._batch_codes(transform_batch)
        position = {m: i for i, m in enumerate(self.modalities)}
        values = {
            m: np.empty((len(cells), len(self.feature_names(m))), dtype=np.float32) for m in wanted
        }
        absent = {m: np.zeros(len(cells), dtype=bool) for m in wanted}
        trust = {m: trust_off_panel(self, mdata, cells, m, batches) for m in wanted}
        start = 0
        for tensors, has_source, (hidden,) in self._decoded(
            mdata, cells, None, batches, batch_size
        ):
            part = slice(start, start + len(has_source))
            start = part.stop
            for name in wanted:
                here = tensors[keys.PRESENCE][:, position[name]]
                absent[name][part] = (~here).cpu().numpy()
                complete = self._complete(tensors, hidden, name, here, trust[name])
                values[name][part] = complete.cpu().numpy()
        completed = {}
        for name in wanted:
            completed[name] = self._annotated(values[name], mdata, name, cells)
            completed[name].obs["imputed"] = absent[name]
        with keep_order():
            result = MuData(completed)
        for column in mdata.obs.columns:
            result.obs[column] = mdata.obs[column].iloc[cells].array
        result.obsm.update(obsm_of(mdata, cells))
        return result

    def _annotated(self, values: np.ndarray, mdata: MuData, name: str, cells) -> AnnData:
        """Complete values of a modality with what is known of its cells and features."""
        cell_names, names = mdata.obs_names[cells], self.feature_names(name)
        adata = AnnData(values, obs=pd.DataFrame(index=cell_names), var=pd.DataFrame(index=names))
        if name in mdata.mod:
            before = mdata.mod[name]
            adata.obs, adata.var = _reindex(before.obs, cell_names), _reindex(before.var, names)
            rows = before.obs_names.get_indexer(cell_names)
            for key, places in before.obsm.items():
                if sparse.issparse(places):
                    places = places.toarray()
                if isinstance(places, pd.DataFrame):
                    adata.obsm[key] = _reindex(places, cell_names)
                elif isinstance(places, np.ndarray) and places.dtype.kind in "fiub":
                    there = (rows >= 0).reshape(-1, *[1] * (places.ndim - 1))
                    known = places[rows]
                    adata.obsm[key] = known if there.all() else np.where(there, known, np.nan)
        panel = getattr(self.module, f"panel_{name}")
        if panel is not None:
            off = ~panel.T.cpu().numpy()
            adata.varm["imputed"] = pd.DataFrame(off, index=names, columns=self.batches)
        return adata

    def _complete(
        self, tensors, hidden, name: str, here: torch.Tensor, trust: dict[int, Trust]
    ) -> torch.Tensor:
        """Measured values of a minibatch where there are any, decoded ones elsewhere."""
        module = self.module
        average = float(self._state(keys.values_key(name))["total"])
        total = torch.full((len(here), 1), average, device=self.device)
        measured, own = module.measured(tensors, name), here[:, None].clone()
        mask = None
        if here.any():
            found = module.measured_total(tensors, name)
            own[here] = found > 0  # nothing of the cell was measured: it has no depth of its own
            total[own] = found[found > 0]
            if measured is not None:
                mask = torch.ones(
                    len(here), measured.shape[1], dtype=torch.bool, device=here.device
                )
                mask[here] = measured | ~own[here]  # an expected total is that of all features
        mean = self._mean_over(hidden, name, total, ~own, mask)
        for code, known in trust.items():
            rows = own.squeeze(1) & (tensors[keys.BATCH].squeeze(1) == code)
            average = total[rows] * known.rates
            believed = average + known.slope * (mean[rows] - average)
            mean[rows] = torch.where(getattr(module, f"panel_{name}")[code], mean[rows], believed)
        if here.any():
            x = tensors[keys.values_key(name)].to_dense()
            mean[here] = x if measured is None else torch.where(measured, x, mean[here])
        return mean


def _reindex(table: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """Rows of the given names, with gaps for those that are not there."""
    if not names.isin(table.index).all():  # booleans with gaps: only these can be written
        table = table.astype({c: "boolean" for c in table if table[c].dtype == bool})
    return table.reindex(names)


def check_n_samples(n_samples: int) -> None:
    if isinstance(n_samples, bool) or not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(f"`n_samples`={n_samples!r}: choose an integer, at least 1.")
