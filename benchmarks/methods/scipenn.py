"""sciPENN: protein from RNA, and labels, by a recurrent network."""

from __future__ import annotations

import os
import tempfile

import numpy as np
from sciPENN.sciPENN_API import sciPENN_API


def run(problem, job):
    rna, query = (block.to_anndata() for block in problem.shared("rna"))
    protein = problem.block("protein").to_anndata()
    labels = {}
    if "query_labels" in problem.asks:
        labels = {"type_key": "label"}
        protein.obs["label"] = problem.obs["label"].loc[protein.obs_names]
    for adata in (rna, protein, query):
        adata.X = adata.X.astype(np.float32)
    protein.X = protein.X.toarray()
    model = sciPENN_API([rna], [protein], query, **labels, min_cells=0, min_genes=0, use_gpu=False)
    with tempfile.TemporaryDirectory() as folder, job.timed():
        os.chdir(folder)
        model.train(load=False, **job.epochs_option("n_epochs"))
    predicted = model.predict()
    predicted = predicted[:, problem.targets["protein"]]
    job.notes.append("predicts standardised logs; compared as they are")
    outputs = {"protein": np.asarray(predicted.X)}
    if labels:
        outputs["query_labels"] = predicted.obs["transfered cell labels"].to_numpy(str)
    return outputs
