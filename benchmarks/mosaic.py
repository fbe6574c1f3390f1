"""Integration of the mosaic ``pbmc_wnn_mosaic.h5mu`` with default settings.

``python -m benchmarks.mosaic --data DIR --scorer FILE [--seeds 0 1 2]`` trains :class:`mumask.MaskedVAE`
without labels and prints one JSON line per seed and one with the medians. FILE defines the scores:
``cluster_scores(latent, labels)`` and ``batch_mixing(latent, batch)``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import time
import warnings
from pathlib import Path

import mudata
import numpy as np
import scvi
import torch
from sklearn.neighbors import KNeighborsClassifier

import mumask


def run(path: Path, scorer, seed: int, **model_options) -> dict:
    """Train and score once."""
    mdata = mudata.read_h5mu(path)
    labels = mdata.obs["cell_type"].astype(str).to_numpy()
    batch = mdata.obs["batch"].astype(str).to_numpy()
    # The scorer's libraries leave OpenMP threads spinning, which slow the next training 15-fold.
    torch.set_num_threads(1)
    scvi.settings.seed = seed
    mumask.MaskedVAE.setup_mudata(mdata, batch_key="batch")
    model = mumask.MaskedVAE(mdata, **model_options)
    start = time.perf_counter()
    model.train(enable_progress_bar=False)
    seconds = time.perf_counter() - start
    latent = model.get_latent_representation()
    scores = {**scorer.cluster_scores(latent, labels), **scorer.batch_mixing(latent, batch)}
    rna_only, protein_only = batch == "p1_0", batch == "p2_0"
    knn = KNeighborsClassifier(15).fit(latent[rna_only], labels[rna_only])
    scores["transfer"] = knn.score(latent[protein_only], labels[protein_only])
    return {"seed": seed, "epochs": len(model.history["train_loss"]), "seconds": seconds, **scores}


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scorer", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    spec = importlib.util.spec_from_file_location("scorer", args.scorer)
    scorer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scorer)
    rows = []
    for seed in args.seeds:
        rows.append(run(args.data / "pbmc_wnn_mosaic.h5mu", scorer, seed, preset=args.preset))
        print(json.dumps({k: round(float(v), 4) for k, v in rows[-1].items()}), flush=True)
    median = {k: round(float(np.median([row[k] for row in rows])), 4) for k in rows[0]}
    print(json.dumps({"median of": len(rows), **median}), flush=True)


if __name__ == "__main__":
    main()
