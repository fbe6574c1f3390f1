"""How much there is to reconstruct in a modality."""

from __future__ import annotations

import math

import numpy as np


def cell_entropy(support: str, mean: np.ndarray) -> float:
    """Entropy of an average cell in nats, the sum over its features; at least 1.

    It is what the reconstruction loss amounts to before the model knows anything of a cell:
    geometric counts (negative binomial with dispersion 1) and binary values of the given mean,
    standard normal values.

    Parameters
    ----------
    support
        ``"count"``, ``"binary"`` or ``"real"``, as of a likelihood.
    mean
        Mean of every feature, shape ``(n_features,)``.
    """
    if support == "real":
        return max(1.0, 0.5 * math.log(2 * math.pi * math.e) * len(mean))
    p = np.clip(np.asarray(mean, dtype=np.float64), 1e-12, None)
    if support == "binary":
        p = p.clip(max=1 - 1e-12)
        by_feature = -p * np.log(p) - (1 - p) * np.log1p(-p)
    else:
        by_feature = (1 + p) * np.log1p(p) - p * np.log(p)
    return max(1.0, float(by_feature.sum()))
