"""MULTIVI; modalities that a cell lacks are padded with zeros by hand, as it asks for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from mudata import MuData
from scipy import sparse

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def _padded(problem, name: str) -> AnnData:
    """Every cell of the problem, zero where it lacks the modality."""
    block, has = problem.block(name), problem.has(name)
    rows = sparse.csr_matrix(
        (np.ones(has.sum(), dtype=np.float32), (np.flatnonzero(has), np.arange(has.sum()))),
        shape=(len(has), has.sum()),
    )
    adata = AnnData((rows @ block.values).tocsr(), obs=problem.obs.copy())
    adata.var = pd.DataFrame(index=block.features)
    return adata


def run(problem, job):
    scvi.settings.seed = job.seed
    mods = {name: _padded(problem, name) for name in problem.blocks}
    if "protein" in mods:
        mods["protein"].X = mods["protein"].X.toarray()
    mdata = MuData(mods)
    keys = {f"{name}_layer": name for name in mods} | {"batch_key": "rna"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities=keys)
    model = scvi.model.MULTIVI(mdata, **job.options("model"))
    with job.timed():
        model.train(**job.options("train", **QUIET, **job.epochs_option()))
    job.epochs = len(model.history["elbo_train"])
    outputs = {"latent": model.get_latent_representation()}
    if "rna" in problem.targets:
        cells = np.flatnonzero(~problem.has("rna"))
        share = model.get_normalized_expression(indices=cells, return_numpy=True)
        total = np.median(np.asarray(problem.block("rna").values.sum(1)))
        outputs["rna"] = np.log1p(share * total)
    if "atac" in problem.targets:
        cells = np.flatnonzero(~problem.has("atac"))
        peaks = list(problem.targets["atac"])
        outputs["atac"] = model.get_normalized_accessibility(
            indices=cells, region_list=peaks, return_numpy=True
        )
    return outputs
