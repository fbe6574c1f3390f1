"""Tangram as it is in scvi-tools: cells of the reference are mapped onto the query's."""

from __future__ import annotations

import numpy as np
import scvi
from mudata import MuData
from scvi.external import Tangram

from benchmarks.problem import lognorm

# What Tangram.train asks for. scvi-tools 1.4.2 hands it on as `optim_kwargs`, which its plan drops for
# defaults of its own: the loss hardly moves (0.138798 to 0.138793 in 150 epochs on T5).
OPTIMIZER = {"lr": 0.1, "eps": 1e-8, "weight_decay": 0.0}


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
        model.train(plan_kwargs=OPTIMIZER, **job.epochs_option())
    job.epochs = job.max_epochs or 1000
    hidden = reference.subset(features=problem.targets["rna"]).to_anndata()
    projected = Tangram.project_genes(hidden, sides["sp"], np.asarray(model.get_mapper_matrix()))
    return {"rna": np.log1p(projected.X)}
