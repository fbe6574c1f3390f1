"""From the registry to what a module has to know of the data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mumask.data import check_is_list, keys
from mumask.module import ModalitySpec

from ._access import AccessMixin


class ModalitySpecsMixin(AccessMixin):
    """Descriptions of modalities and covariates for the constructors of modules."""

    def _modality_specs(self, held_out: Mapping, weights: Mapping) -> dict[str, ModalitySpec]:
        for argument, by_modality in (("held_out", held_out), ("modality_weights", weights)):
            for modality in by_modality:
                if modality not in self.modalities:
                    raise ValueError(
                        f"`{argument}` names {modality!r}, but the modalities are "
                        f"{self.modalities}."
                    )
        specs = {}
        for modality in self.modalities:
            state, names = self._state(keys.values_key(modality)), self.feature_names(modality)
            check_is_list(held_out.get(modality), f"held_out[{modality!r}]")
            hidden = list(held_out.get(modality, []))
            strange = [name for name in hidden if name not in names]
            if strange:
                raise ValueError(f"`held_out`: modality {modality!r} has no {strange[0]!r}.")
            if len(set(hidden)) == len(names) and len(self.modalities) == 1:
                raise ValueError("`held_out` hides every feature: nothing is left to encode.")
            panel = np.asarray(state["panel"], dtype=bool)
            known = {one.tobytes() for one in np.asarray(state["trained_panels"], dtype=bool)}
            specs[modality] = ModalitySpec(
                n_features=len(names),
                likelihood=state["likelihood"],
                profile=np.asarray(state["profile"]),
                total=float(state["total"]),
                panel=panel,
                new_panel=np.array([one.tobytes() not in known for one in panel]),
                held_out=names.isin(hidden),
                weight=float(weights.get(modality, 1.0)),
            )
        return specs

    def _summary(self, preset: str | None) -> str:
        """What the model shows of itself when it is printed."""
        features = ", ".join(f"{m} ({len(self.feature_names(m)):,})" for m in self.modalities)
        labelled, n = f"n_{keys.LABELS}" in self.summary_stats, self.module.n_classes
        parts = [
            f"{type(self).__name__} of {features}",
            f"{self.module.n_latent} latent dimensions",
            f"{len(self.batches)} {'batch' if len(self.batches) == 1 else 'batches'}",
            *([f"{n} {'cell types' if labelled else 'clusters'}"] if n else []),
            *([f"preset {preset!r}"] if preset else []),
        ]
        return "; ".join(parts) + "."

    def _n_categories(self) -> list[int]:
        return [
            self.summary_stats[f"n_{keys.BATCH}"],
            *self.summary_stats.get(f"n_{keys.CAT_COVS}", []),
        ]
