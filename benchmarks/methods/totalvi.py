"""totalVI and totalANVI with their documented defaults."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.problem import UNKNOWN, Problem, clr

KEYS = {"rna_layer": "rna", "protein_layer": "protein", "batch_key": "rna"}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def _mudata(problem: Problem) -> MuData:
    """As :meth:`Problem.to_mudata`; totalVI needs the protein dense and obs columns in the RNA."""
    mdata = problem.to_mudata()
    mdata["protein"].X = mdata["protein"].X.toarray()
    mdata["rna"].obs = problem.obs.loc[mdata["rna"].obs_names].copy()
    return mdata


def _train(mdata, job):
    scvi.settings.seed = job.seed
    scvi.model.TOTALVI.setup_mudata(mdata, batch_key="batch", modalities=KEYS)
    model = scvi.model.TOTALVI(mdata, **job.options("model"))
    with job.timed():
        model.train(**job.options("train", **QUIET, **job.epochs_option()))
    job.epochs = len(model.history["elbo_train"])
    return model


def totalvi(problem, job):
    if problem.query is None:
        return {"latent": _train(_mudata(problem), job).get_latent_representation()}
    # A batch whose proteins are all zero counts as one without proteins.
    reference, query = problem.shared("rna")
    protein = problem.block("protein")
    obs = pd.concat([problem.obs[["batch"]], problem.query.obs[["batch"]]])
    empty = np.zeros((len(query.cells), len(protein.features)), dtype=np.float32)
    values = np.vstack([protein.values.toarray(), empty])
    rna = AnnData(sparse.vstack([reference.values, query.values]).tocsr(), obs=obs)
    rna.var_names = reference.features
    proteins = AnnData(values, obs=pd.DataFrame(index=obs.index))
    proteins.var_names = protein.features
    model = _train(MuData({"rna": rna, "protein": proteins}), job)
    known = len(reference.cells)
    batches = sorted(set(problem.obs["batch"]))
    _, predicted = model.get_normalized_expression(
        indices=np.arange(known, len(obs)), transform_batch=batches, n_samples=10
    )
    outputs = {"protein": clr(predicted[protein.features].to_numpy())}
    note = "reference and query are trained together"
    if "query_labels" in problem.asks:
        latent = model.get_latent_representation()
        labels = KNeighborsClassifier(15).fit(latent[:known], problem.obs["label"].to_numpy())
        outputs["query_labels"] = labels.predict(latent[known:])
        note += "; labels by 15 nearest neighbours"
    job.notes.append(note)
    return outputs


def totalanvi(problem, job):
    """On AnnData: with MuData, ``from_totalvi_model`` ends in a TypeError (scvi-tools 1.4.2)."""
    scvi.settings.seed = job.seed
    protein = problem.block("protein")
    adata = problem.block("rna").to_anndata()
    adata.obs = problem.obs.loc[adata.obs_names].copy()
    adata.obsm["protein"] = pd.DataFrame(
        protein.values.toarray(), index=protein.cells, columns=protein.features
    ).loc[adata.obs_names]
    scvi.model.TOTALVI.setup_anndata(
        adata, protein_expression_obsm_key="protein", batch_key="batch"
    )
    base = scvi.model.TOTALVI(adata)
    with job.timed():
        base.train(**job.options("train", **QUIET, **job.epochs_option()))
    epochs = len(base.history["elbo_train"])
    model = scvi.external.TOTALANVI.from_totalvi_model(
        base, unlabeled_category=UNKNOWN, labels_key="label"
    )
    with job.timed():
        model.train(**QUIET)
    job.epochs = epochs + len(model.history["elbo_train"])
    job.notes.append("totalVI first, then totalANVI from its weights")
    return {
        "labels": np.asarray(model.predict()).astype(str),
        "latent": model.get_latent_representation(),
    }
