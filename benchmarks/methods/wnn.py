"""WNN (Seurat 4) through muon: a weighted neighbour graph of both modalities."""

from __future__ import annotations

import muon
import scanpy as sc

from benchmarks.problem import clr


def run(problem, job):
    mdata = problem.to_mudata()
    with job.timed():
        for name, adata in mdata.mod.items():
            if name == "atac":
                muon.atac.pp.tfidf(adata, scale_factor=1e4)
                muon.atac.tl.lsi(adata)
                adata.obsm["X_lsi"] = adata.obsm["X_lsi"][:, 1:]
                sc.pp.neighbors(adata, use_rep="X_lsi", random_state=job.seed)
                continue
            if name == "protein":
                adata.X = clr(adata.X)
            else:
                sc.pp.normalize_total(adata, target_sum=1e4)
                sc.pp.log1p(adata)
            sc.pp.pca(adata, n_comps=min(30, adata.n_vars - 1), random_state=job.seed)
            sc.pp.neighbors(adata, use_rep="X_pca", random_state=job.seed)
        muon.pp.neighbors(mdata, random_state=job.seed)
    return {"graph": mdata.obsp["connectivities"]}
