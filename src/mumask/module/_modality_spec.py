"""What a module has to know of a modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mumask.nn import LIKELIHOODS


@dataclass
class ModalitySpec:
    """One modality as registered.

    Attributes
    ----------
    n_features
        Number of features.
    likelihood
        Key of :data:`mumask.nn.LIKELIHOODS`.
    profile
        Share of each feature in an average reference cell, shape ``(n_features,)``.
    total
        Total of an average reference cell.
    panel
        Measured features, shape ``(n_batch, n_features)``.
    held_out
        Features that no encoder may see, shape ``(n_features,)``.
    weight
        Weight of the modality's reconstruction loss.
    new_panel
        Batches of a query whose panel no batch of the reference had, booleans of shape
        ``(n_batch,)``; None if there are none.
    """

    n_features: int
    likelihood: str
    profile: np.ndarray
    total: float
    panel: np.ndarray
    held_out: np.ndarray
    weight: float = 1.0
    new_panel: np.ndarray | None = None


def count_features(modalities: Mapping[str, ModalitySpec]) -> dict[str, int]:
    """Number of features of every modality of counts."""
    return {
        name: spec.n_features
        for name, spec in modalities.items()
        if LIKELIHOODS[spec.likelihood].support == "count"
    }
