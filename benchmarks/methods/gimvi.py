"""gimVI: genes that the spatial data lack, from a joint model of both data sets."""

from __future__ import annotations

import numpy as np
import scvi
from scvi.external import GIMVI


def run(problem, job):
    scvi.settings.seed = job.seed
    reference, query = problem.block("rna"), problem.query.block("rna")
    shared = query.features[np.isin(query.features, reference.features)]
    sequenced = reference.to_anndata()
    spatial = query.subset(features=shared).to_anndata()
    GIMVI.setup_anndata(sequenced)
    GIMVI.setup_anndata(spatial)
    model = GIMVI(sequenced, spatial)
    with job.timed():
        model.train(enable_progress_bar=False, accelerator="cpu", **job.epochs_option())
    job.epochs = job.max_epochs or 200
    _, imputed = model.get_imputed_values(normalized=False)
    columns = sequenced.var_names.get_indexer(problem.targets["rna"])
    return {"rna": np.log1p(np.asarray(imputed)[:, columns])}
