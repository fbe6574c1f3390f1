"""scMoMaT: matrix tri-factorisation of a mosaic."""

from __future__ import annotations

import numpy as np
import scmomat

KINDS = {"rna": "RNA", "protein": "protein", "atac": "ATAC"}


def run(problem, job):
    batch = problem.obs["batch"].to_numpy()
    names = list(dict.fromkeys(batch))
    counts = {"nbatches": len(names), "feats_name": {}}
    for name, block in problem.blocks.items():
        counts["feats_name"][name] = block.features
        counts[name] = []
        for one in names:
            cells = problem.obs.index[(batch == one) & problem.has(name)]
            values = block.subset(cells=cells).values.toarray() if len(cells) else None
            counts[name].append(
                None
                if values is None
                else scmomat.preprocess(values, modality=KINDS[name], log=name == "rna")
            )
    with job.timed():
        model = scmomat.scmomat_model(counts, K=30, seed=job.seed)
        model.train_func(**{"T": 4000, **job.epochs_option("T")})
    job.epochs = job.max_epochs or 4000
    job.notes.append("iterations, not epochs")
    latent = np.empty((len(batch), 30), dtype=np.float32)
    for one, factors in zip(names, model.extract_cell_factors(), strict=True):
        latent[batch == one] = factors
    return {"latent": latent}
