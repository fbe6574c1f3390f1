"""sciPENN: protein from RNA, and labels, by a recurrent network."""

from __future__ import annotations

import os
import tempfile

import numpy as np
from sciPENN.sciPENN_API import sciPENN_API


def run(problem, job):
    rna, protein = problem.block("rna").to_anndata(), problem.block("protein").to_anndata()
    query = problem.query.block("rna").to_anndata()
    protein.obs["label"] = problem.obs["label"].loc[protein.obs_names]
    for adata in (rna, protein, query):
        adata.X = adata.X.astype(np.float32)
    protein.X = protein.X.toarray()
    model = sciPENN_API(
        [rna], [protein], query, type_key="label", min_cells=0, min_genes=0, use_gpu=False
    )
    with tempfile.TemporaryDirectory() as folder, job.timed():
        os.chdir(folder)
        model.train(load=False, **job.epochs_option("n_epochs"))
    predicted = model.predict()
    predicted = predicted[:, problem.targets["protein"]]
    job.notes.append("predicts standardised logs; compared as they are")
    return {
        "protein": np.asarray(predicted.X),
        "query_labels": predicted.obs["transfered cell labels"].to_numpy(str),
    }
