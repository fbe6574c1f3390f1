"""What our models share: how a problem becomes a MuData, and the questions asked of a model."""

from __future__ import annotations

import numpy as np
import torch
from mudata import MuData

import mumask
from benchmarks.problem import UNKNOWN, clr

REFERENCE, QUERY = "reference", "query"


def prepare(problem, job):
    """MuData and arguments of ``setup_mudata``.

    Genes measured in one data set only (T5, T5b): both go into one modality, each with its panel.
    """
    if "rna" in problem.targets and problem.query is not None:
        mdata = mumask.pp.concat_batches(
            {
                REFERENCE: problem.block("rna").to_anndata(),
                QUERY: _query_with_counts(problem).to_anndata(),
            },
            modality="rna",
        )
        return mdata, {"batch_key": "batch", "panels": mumask.pp.panels(mdata)}
    if job.settings.get("joint"):  # a mosaic of reference and query
        reference = {name: problem.block(name).to_anndata() for name in problem.blocks}
        query = {"rna": problem.query.block("rna").to_anndata()}
        mdata = mumask.pp.concat_batches({REFERENCE: reference, QUERY: query})
        return mdata, {"batch_key": "batch"}
    mdata = problem.to_mudata()
    if n_genes := job.settings.get("n_genes"):
        mdata = mumask.pp.select_features(mdata, "rna", n_top=n_genes)
    setup = {"batch_key": "batch"} if problem.obs["batch"].nunique() > 1 else {}
    if "label" in problem.obs:
        setup |= {"labels_key": "label", "unlabeled_category": UNKNOWN}
    return mdata, setup


def random_panel(x):
    """Half of the cells are seen through 5 to 100 % of their features."""
    share = torch.empty_like(x[:, :1]).uniform_(0.05, 1)
    share[torch.rand_like(share) < 0.5] = 1
    return torch.rand_like(x) < share


def _query_with_counts(problem):
    """The query less cells without any count, which setup_mudata would refuse."""
    block = problem.query.block("rna")
    counted = np.asarray(block.values.sum(1)).ravel() > 0
    return block.subset(cells=block.cells[counted])


def answers(problem, job, model, mdata):
    """Everything the task asks for."""
    outputs = {}
    if "latent" in problem.asks:
        outputs["latent"] = model.get_latent_representation()
    if "labels" in problem.asks:
        outputs["labels"] = model.predict().to_numpy(str)
    if problem.query is None:
        for name, features in problem.targets.items():
            outputs[name] = _translated(problem, model, name, features)
        return outputs
    if "rna" in problem.targets:
        return {**outputs, "rna": _imputed(problem, model, mdata)}
    if job.settings.get("joint"):
        mdata = mdata[mdata.obs["batch"] == REFERENCE].copy()
    query = type(model).load_query_data(problem.query.to_mudata(), model)
    if "refine_steps" in job.settings:
        query.module.refine_steps = job.settings["refine_steps"]
    if "protein" in problem.targets and job.settings.get("neighbours"):
        outputs["protein"] = _from_neighbours(problem, model, mdata, query)
    elif "protein" in problem.targets:
        proteins = list(problem.targets["protein"])
        logs = query.get_log_expression(modality="protein", source="rna", features=proteins)
        outputs["protein"] = logs.sub(logs.mean(axis=1), axis=0).to_numpy()
    if "query_labels" in problem.asks:
        outputs["query_labels"] = query.predict().to_numpy(str)
    return outputs


def _from_neighbours(problem, model, mdata, query):
    """Mean centred log-ratios of the reference cells that are nearest in what the query's RNA tells."""
    reference, asked = mdata.copy(), problem.query.to_mudata()
    genes = reference["rna"].var_names.isin(asked["rna"].var_names)
    through = MuData({"rna": reference["rna"][:, genes].copy()})
    through.obs = reference.obs.loc[through.obs_names].copy()
    seen = type(model).load_query_data(through, model).get_latent_representation()
    reference.obsm["X_rna"] = seen[through.obs_names.get_indexer(reference.obs_names)]
    asked.obsm["X_rna"] = query.get_latent_representation(source="rna")
    reference["protein"].layers["clr"] = clr(reference["protein"].X)
    options = {"features": problem.targets["protein"], "use_rep": "X_rna", "layer": "clr"}
    return mumask.tl.impute_from_neighbors(asked, reference, "protein", **options).to_numpy()


def _imputed(problem, model, mdata):
    """Hidden genes of the query at its cells' own depth; gaps for cells without any count."""
    cells = np.flatnonzero(mdata.obs["batch"] == QUERY)
    completed = model.impute(indices=cells, transform_batch=REFERENCE)
    values = np.full((len(problem.query.obs), len(problem.targets["rna"])), np.nan)
    names = _query_with_counts(problem).cells
    values[problem.query.obs.index.get_indexer(names)] = np.log1p(
        completed.mod["rna"][:, problem.targets["rna"]].X
    )
    return values


def _translated(problem, model, name, features):
    """One modality decoded for the cells that lack it, from the other."""
    source = next(other for other in problem.blocks if other != name)
    values = model.get_normalized_expression(
        indices=np.flatnonzero(~problem.has(name)),
        modality=name,
        source=source,
        features=list(features),
    ).to_numpy()
    return values if name == "atac" else np.log1p(values)
