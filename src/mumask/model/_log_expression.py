"""Expected logarithms of counts: the decoder, and what like reference cells have."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from mumask.data import keys, presence
from mumask.nn import Metacells, as_dense

from ._access import feature_columns
from ._decode import DecodeMixin

# Cells from which metacells are made.
METACELL_CELLS = 10_000


class LogExpressionMixin(DecodeMixin):
    """``get_log_expression``, and the metacells that it reads."""

    def get_log_expression(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        modality: str | None = None,
        source: str | Sequence[str] | None = None,
        transform_batch: str | Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Expected ``log1p`` of the counts of one modality, whether a cell has it or not.

        A cell whose other modalities leave two levels of a protein open has an expected count near
        the higher one; its expected logarithm lies between them, as the cells do in a plot. Less
        the mean of each cell it is the centred log-ratio of the proteins, with a pseudocount of one.

        It is the mean of two estimates: the logarithm of what the decoder expects, and the mean
        logarithm that was measured in reference cells nearby in the latent space. A cell that is
        encoded without the modality is compared with them as they are encoded without it: with it
        they lie apart by the very levels that are open. The model keeps the means of 100 groups,
        made at the end of its training, so that a query needs no reference data. Differences between batches and between other covariates are the decoder's.
        A model whose training was cut short remembers nothing, nor does a query that trained more
        than its covariates (`unfrozen`) without cells of the modality: then the decoder alone
        answers, with a warning.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        modality
            Modality of counts; the first by default.
        source
            Modalities to encode from; by default all that a cell has.
        transform_batch
            As if from this batch, or the mean over several; by default each cell's own.
        features
            Names of the features to return; all by default.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Data frame of cells x features, at the total that the model expects of each cell, if it
        learned one, else at that of an average reference cell.

        Raises
        ------
        ValueError
            If the modality does not hold counts.

        Examples
        --------
        >>> logs = model.get_log_expression(
        ...     source="rna", modality="protein", indices=mdata.obs["batch"] == "RNA-only"
        ... )
        >>> logs.shape
        (60, 12)
        >>> clr = logs.sub(logs.mean(axis=1), axis=0)
        """
        modality = self.modalities[0] if modality is None else modality
        names, metacells = self.feature_names(modality), self.module.metacells
        if modality not in metacells.names:
            raise ValueError(
                f"{modality!r} does not hold counts, of which a logarithm could be expected: see "
                "get_normalized_expression()."
            )
        columns = feature_columns(names, features, modality)
        picked = torch.as_tensor(columns, device=self.device)
        mdata, cells = self._cells(mdata, indices)
        batches = self._batch_codes(transform_batch)
        if not (remembers := metacells.knows(modality)):
            warnings.warn(
                f"No reference cells of {modality!r} are remembered, so the decoder alone answers. "
                "train() gathers them at its end, of the cells that have it.",
                stacklevel=2,
            )

        def read(tensors: dict, out: dict) -> torch.Tensor:
            own, point = self.module._get_generative_input(tensors, out), out["corrected"]
            decoded = lambda *as_if: self._decoded_logs(*as_if, point, modality, picked)
            logs = sum(decoded(own, code) for code in batches) / len(batches)
            if remembers:
                nearby = metacells(point, modality)
                if modality in metacells.without and metacells.without[modality].knows(modality):
                    shown = out["source"][:, self.modalities.index(modality), None]
                    without = metacells.without[modality](point, modality)
                    nearby = torch.where(shown, nearby, without)
                level = decoded(_of_no_covariates(own), None)
                logs = logs + (nearby[:, picked] - level) / 2
            return logs.clamp(min=0)

        values = self._collect(read, len(columns), mdata, cells, source, batch_size)
        return pd.DataFrame(values, index=mdata.obs_names[cells], columns=names[columns])

    def _decoded_logs(self, inputs: dict, code: int | None, point, modality: str, features=None):
        """Logarithms of the expected counts of a minibatch as if from a batch, or its own."""
        hidden = self._hidden_as_if(inputs, point, code)
        average = float(self._state(keys.values_key(modality))["total"])
        total = torch.full((len(point), 1), average, device=self.device)
        return self._mean_over([hidden], modality, total, True, features=features).log1p()

    def _fit_metacells(self) -> None:
        """Group cells by their place in the latent space, and take the means of what they have."""
        metacells, cells = self.module.metacells, self._some_cells(METACELL_CELLS)
        if metacells.names:
            self._remember(metacells, cells, None)
        for name, memory in metacells.without.items():
            others = [m for m in self.modalities if m != name]
            both = presence(self.adata, [name])[:, 0] & presence(self.adata, others).any(axis=1)
            if both[cells].any():
                self._remember(memory, cells[both[cells]], others)

    def _remember(self, memory: Metacells, cells: np.ndarray, source: list[str] | None) -> None:
        """Fit a memory to cells as they are encoded from some modalities; None: from all."""
        encoded = lambda: self._encode(self.adata, cells, None, source)
        memory.place(torch.cat([out["corrected"] for _, out, _ in encoded()]))
        for tensors, out, _ in encoded():
            own_inputs, point = self.module._get_generative_input(tensors, out), out["corrected"]
            of_none = _of_no_covariates(own_inputs)
            for name in memory.names:
                if len(rows := self.module.rows_of(tensors, name)):
                    own = self._decoded_logs(own_inputs, None, point, name)[rows]
                    levels = self._decoded_logs(of_none, None, point, name)[rows]
                    found = as_dense(tensors[keys.values_key(name)]).log1p() - own
                    if (measured := self.module.measured(tensors, name)) is not None:
                        found = found * measured
                    memory.add(name, point[rows], levels + found)


def _of_no_covariates(inputs: dict) -> dict:
    """Inputs of a decoder at one level for all cells: the first categories, average numbers."""
    zeros = {n: None if v is None else torch.zeros_like(v) for n, v in inputs["covariates"].items()}
    return inputs | {"covariates": zeros}
