"""Expression under another condition, by vector arithmetic on covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from mudata import MuData

from mumask.data import category_name, keys

from ._access import check_library_size, feature_columns
from ._encode import EncodeMixin


class CounterfactualMixin(EncodeMixin):
    """What cells would look like had they been measured under other conditions."""

    def predict_condition(
        self,
        covariates: Mapping[str, str | float],
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        modality: str | None = None,
        source: str | Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        library_size: float | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Decode cells as if some of their covariates had other values.

        The vector of a cell's own covariate is taken away and that of the new value is added
        (``Z + E_new - E_own``, latent vector arithmetic of inClust), in the latent space with
        ``arithmetic="subtract"`` or ``"add"``, in the decoder where that is conditioned. As the
        vectors are shared by all cells, a condition can be predicted for a cell type in which it
        was never seen. What it does to this type alone cannot be known.

        Parameters
        ----------
        covariates
            New values by registered key: the batch key, categorical covariates (a known category)
            and continuous ones (a number on the scale of ``mdata.obs``), as in
            ``{"condition": "stimulated"}``. Covariates that are not named stay as they are.
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default.
        modality
            Modality to decode; the first by default.
        source
            Modalities to encode from; by default all that a cell has.
        features
            Names of the features to return; all by default.
        library_size
            Total to which counts are scaled; by default that of an average reference cell.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Data frame of cells x features, on the scale of ``get_normalized_expression``: the
        predicted change is the difference of its logarithm to the same call with the old value.

        References
        ----------
        Wang & Nie, inClust (BMC Bioinformatics 2024); Lotfollahi et al., scGen, Nature Methods 16
        (2019).

        Examples
        --------
        >>> cells = mdata.obs["batch"] == "RNA-only"
        >>> as_if = model.predict_condition({"batch": "CITE-seq"}, indices=cells, modality="rna")
        >>> as_if.shape
        (60, 100)
        """
        modality = self.modalities[0] if modality is None else modality
        names = self.feature_names(modality)
        columns = feature_columns(names, features, modality)
        check_library_size(library_size)
        categories, continuous = self._new_values(covariates)
        mdata, cells = self._cells(mdata, indices)
        if library_size is None:
            library_size = float(self._state(keys.values_key(modality))["total"])
        picked = torch.as_tensor(columns, device=self.device)

        def read(tensors: dict, out: dict) -> torch.Tensor:
            inputs = self.module._get_generative_input(tensors, out)
            asked = dict(inputs["covariates"])
            for kind, changes in (("categories", categories), ("continuous", continuous)):
                if changes:
                    asked[kind] = asked[kind].clone()
                for column, value in changes.items():
                    asked[kind][:, column] = value
            inputs |= {"z": self.module.to_decoder(out["corrected"], asked), "covariates": asked}
            hidden = self.module.generative(**inputs)["hidden"]
            total = torch.full((len(out["mean"]), 1), library_size, device=self.device)
            return self.module.expected(hidden, modality, total, features=picked)

        values = self._collect(read, len(columns), mdata, cells, source, batch_size)
        return pd.DataFrame(values, index=mdata.obs_names[cells], columns=names[columns])

    def _new_values(self, covariates: Mapping) -> tuple[dict[int, int], dict[int, float]]:
        """Codes by categorical column and standardised values by continuous column."""
        if not getattr(self.module, "sign", 0.0) and self.module.decoder_covariates is None:
            raise ValueError(
                "The model has neither latent arithmetic nor a conditioned decoder, so covariates "
                "change nothing. Make it with arithmetic='subtract' or condition_decoder=True."
            )
        fields = self.registry_["field_registries"]
        states = self._state(keys.CAT_COVS) if keys.CAT_COVS in fields else {}
        batch = self._state(keys.BATCH)
        # In the order of the columns; the column of the batch may be a covariate, too.
        registered = [(batch["original_key"], batch), *states.items()]
        known = {key: list(state["categorical_mapping"]) for key, state in registered}
        numbers = self._state(keys.CONT_COVS) if keys.CONT_COVS in fields else {"columns": []}
        columns = list(numbers["columns"])
        if not isinstance(covariates, Mapping):
            raise TypeError(
                f"`covariates` goes by column, {{column: value}}, not {covariates!r}; the model knows "
                f"{[*known, *columns]}."
            )
        if not covariates:
            raise ValueError(f"`covariates` is empty; the model knows {[*known, *columns]}.")
        categories, continuous = {}, {}
        for key, value in covariates.items():
            if np.ndim(value):
                raise TypeError(
                    f"`covariates`: one value of {key!r} for all cells, not {value!r}; ask once for "
                    "each value."
                )
            if key in columns:
                j = columns.index(key)
                scaled = (_number(value, key) - numbers["mean"][j]) / numbers["deviation"][j]
                continuous[j] = float(scaled)
            elif key not in known:
                raise KeyError(
                    f"`covariates`: {key!r} was not registered; the model knows "
                    f"{[k for k in [*known, *columns] if k is not None]}."
                )
            elif category_name(value) not in known[key]:
                raise ValueError(
                    f"`covariates`: {value!r} is no {key!r} that the model was trained with, "
                    f"{known[key]}."
                )
            else:
                code = known[key].index(category_name(value))
                categories |= {j: code for j, (name, _) in enumerate(registered) if name == key}
        return categories, continuous


def _number(value, key: str) -> float:
    """A value of a continuous covariate; one that is not finite would make all decoded values NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"`covariates`: {key!r} is a finite number, not {value!r}.")
    return number
