"""Biology other than the cell type: tissues, conditions, and what they do to a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

# Length of a level's move at strength 1: between lineages (2.6) and types of one lineage (1.1).
MOVE = 1.8


def add_factors(
    rng, obs: pd.DataFrame, z: np.ndarray, factors: Mapping[str, Sequence[str]], strength: float
) -> np.ndarray:
    """Draw a level of every factor for each cell, and move its latent.

    The first level moves nothing. A further one moves all cells in one direction, each cell type
    by 0.7 to 1.3 times the length. Batches differ in their mix of levels. `obs` gets a column per
    factor; the moved latent is returned.
    """
    kinds, batches = obs["cell_type"].cat.codes.to_numpy(), obs["batch"].cat.codes.to_numpy()
    for factor, names in factors.items():
        names = [str(name) for name in names]
        if factor in obs or len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"factors[{factor!r}] needs two or more different names, and a name of its own."
            )
        mix = np.exp(rng.normal(0, 0.3, (batches.max() + 1, len(names))))
        mix /= mix.sum(axis=1, keepdims=True)
        levels = (rng.random(len(z))[:, None] > mix.cumsum(axis=1)[batches]).sum(axis=1)
        directions = rng.normal(size=(len(names), z.shape[1]))
        directions *= strength * MOVE / np.linalg.norm(directions, axis=1, keepdims=True)
        directions[0] = 0
        gain = rng.uniform(0.7, 1.3, (kinds.max() + 1, len(names)))
        z = z + gain[kinds, levels][:, None] * directions[levels]
        obs[factor] = pd.Categorical.from_codes(levels, names)
    return z.astype(np.float32)
