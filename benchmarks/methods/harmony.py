"""Harmony on the concatenated principal components, batches corrected."""

from __future__ import annotations

import harmonypy
import numpy as np

from . import baselines


def run(problem, job):
    with job.timed():
        start = baselines._concat(problem, job.seed)
        found = harmonypy.run_harmony(start, problem.obs, "batch", random_state=job.seed)
    latent = np.asarray(found.Z_corr)
    return {"latent": latent if len(latent) == len(start) else latent.T}
