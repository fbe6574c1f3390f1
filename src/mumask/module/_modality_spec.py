"""What a module has to know of a modality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
