"""MOFA+ through muon, on the normalised values that its tutorials use."""

from __future__ import annotations

import tempfile
from pathlib import Path

import muon
import scanpy as sc

from benchmarks.problem import clr


def run(problem, job):
    mdata = problem.to_mudata()
    for name, adata in mdata.mod.items():
        if name == "protein":
            adata.X = clr(adata.X)
        elif name == "atac":
            muon.atac.pp.tfidf(adata, scale_factor=1e4)
            sc.pp.highly_variable_genes(adata, n_top_genes=5000)
        else:
            sc.pp.normalize_total(adata, target_sum=1e4)
            sc.pp.log1p(adata)
            sc.pp.highly_variable_genes(adata, n_top_genes=min(2000, adata.n_vars))
    mdata.update()
    grouped = {"groups_label": "batch"} if mdata.obs["batch"].nunique() > 1 else {}
    with tempfile.TemporaryDirectory() as folder, job.timed():
        muon.tl.mofa(
            mdata,
            seed=job.seed,
            outfile=str(Path(folder, "mofa.hdf5")),
            quiet=True,
            use_var="highly_variable" if "highly_variable" in mdata.var else None,
            **grouped,
            **job.epochs_option("n_iterations"),
        )
    return {"latent": mdata.obsm["X_mofa"]}
