"""uniPort: a shared latent space of both data sets, decoded by the reference's decoder."""

from __future__ import annotations

import tempfile

import numpy as np
import scanpy as sc
import uniport


def run(problem, job):
    reference, query = problem.block("rna"), problem.query.block("rna")
    shared = query.features[np.isin(query.features, reference.features)]
    parts = []
    for number, (name, block) in enumerate((("spatial", query), ("reference", reference))):
        adata = block.to_anndata()
        adata.X = adata.X.astype(np.float32)
        adata.obs["domain_id"], adata.obs["source"] = number, name
        adata.obs["domain_id"] = adata.obs["domain_id"].astype("category")
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        parts.append(adata)
    spatial, rna = parts
    common = sc.concat([spatial[:, shared], rna[:, shared]])
    common.obs["domain_id"] = common.obs["domain_id"].astype("category")
    for adata in (spatial, rna, common):
        uniport.batch_scale(adata)
    with tempfile.TemporaryDirectory() as folder:
        options = {"outdir": folder, "seed": job.seed, **job.epochs_option("iteration")}
        with job.timed():
            uniport.Run(adatas=[spatial, rna], adata_cm=common, lambda_kl=5.0, **options)
        asked = common[: spatial.n_obs].copy()
        found = uniport.Run(adata_cm=asked, out="predict", pred_id=1, outdir=folder, seed=job.seed)
    job.notes.append("iterations, not epochs")
    job.epochs = job.max_epochs or 30_000
    columns = rna.var_names.get_indexer(problem.targets["rna"])
    return {"rna": np.asarray(found.obsm["predict"])[:, columns]}
