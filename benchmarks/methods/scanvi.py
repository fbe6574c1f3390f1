"""scANVI on the RNA alone: scVI first, then scANVI from its weights."""

from __future__ import annotations

import scvi

from benchmarks.problem import UNKNOWN

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def run(problem, job):
    scvi.settings.seed = job.seed
    adata = problem.block("rna").to_anndata()
    adata.obs = problem.obs.copy()
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="label")
    base = scvi.model.SCVI(adata)
    with job.timed():
        base.train(**QUIET, **job.epochs_option())
        model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNKNOWN)
        model.train(**QUIET)
    job.epochs = len(base.history["elbo_train"]) + len(model.history["elbo_train"])
    job.notes.append("RNA only")
    return {"labels": model.predict(), "latent": model.get_latent_representation()}
