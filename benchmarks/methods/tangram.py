"""Tangram as it is in scvi-tools: cells of the reference are mapped onto the query's."""

from __future__ import annotations

import numpy as np
import scvi
from mudata import MuData
from scvi.external import Tangram

from benchmarks.problem import lognorm


def run(problem, job):
    scvi.settings.seed = job.seed
    reference, query = problem.block("rna"), problem.query.block("rna")
    shared = query.features[np.isin(query.features, reference.features)]
    sides = {}
    for name, block in (("sc", reference), ("sp", query)):
        sides[name] = block.subset(features=shared).to_anndata()
        sides[name].X = lognorm(sides[name].X).astype(np.float32)
    # the density prior of the original: how much was counted at a place
    counts = np.asarray(query.subset(features=shared).values.sum(1)).ravel()
    sides["sp"].obs["rna_count_based_density"] = counts / counts.sum()
    mdata = MuData(sides)
    Tangram.setup_mudata(
        mdata,
        density_prior_key="rna_count_based_density",
        modalities={"density_prior_key": "sp", "sc_layer": "sc", "sp_layer": "sp"},
    )
    model = Tangram(mdata)
    with job.timed():
        model.train(**job.epochs_option())
    job.epochs = job.max_epochs or 1000
    mapping = np.array(model.get_mapper_matrix())
    # Every spatial cell gets its share of every cell of the reference.
    mapping /= np.maximum(mapping.sum(axis=0, keepdims=True), 1e-12)
    values = reference.subset(features=problem.targets["rna"]).values.log1p()
    return {"rna": mapping.T @ values.toarray()}
