"""Cost of the data path: memory above the input, and loading time beside the model's.

``python -m benchmarks.data_path [n_cells]`` simulates a mosaic (RNA for half of the cells, ATAC for the
other half, 10 % with both), registers it, trains one epoch and prints one JSON line.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import warnings

import mudata
import numpy as np
import pandas as pd
import psutil
from anndata import AnnData

import mumask

from .simulate import random_csr

GENES, PEAKS, PEAK_DENSITY, GENE_DENSITY = 2_000, 50_000, 0.03, 0.1


def mosaic(n_cells: int, seed: int = 0) -> mudata.MuData:
    """RNA in the first 55 % of the cells, ATAC in the last 55 %."""
    rng = np.random.default_rng(seed)
    names = np.array([f"cell{i}" for i in range(n_cells)])
    share = int(0.55 * n_cells)
    rna = AnnData(random_csr(share, GENES, GENE_DENSITY, False, rng))
    atac = AnnData(random_csr(share, PEAKS, PEAK_DENSITY, True, rng))
    rna.obs_names, atac.obs_names = names[:share], names[-share:]
    atac.var_names = [f"peak{i}" for i in range(PEAKS)]
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData({"rna": rna, "atac": atac})
    mdata.obs["batch"] = pd.Categorical(np.where(np.arange(mdata.n_obs) % 2, "a", "b"))
    return mdata


class PeakMemory(threading.Thread):
    """Highest resident memory of this process while the thread runs, in MiB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.running = 0.0, True

    def run(self) -> None:
        """Look every 5 ms."""
        process = psutil.Process()
        while self.running:
            self.peak = max(self.peak, process.memory_info().rss / 2**20)
            time.sleep(0.005)


def main(n_cells: int = 200_000) -> dict:
    """Measure and return the figures."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    mdata = mosaic(n_cells)
    size = sum(
        x.data.nbytes + x.indices.nbytes + x.indptr.nbytes
        for x in (adata.X for adata in mdata.mod.values())
    )
    process = psutil.Process()
    before = process.memory_info().rss / 2**20

    watch = PeakMemory()
    watch.start()
    start = time.perf_counter()
    mumask.MaskedVAE.setup_mudata(
        mdata, batch_key="batch", likelihoods={"rna": "nb", "atac": "bernoulli"}
    )
    registered = time.perf_counter() - start
    manager = mumask.MaskedVAE._get_most_recent_anndata_manager(mdata)
    dataset = manager.create_torch_dataset()
    order = np.random.default_rng(0).permutation(mdata.n_obs)
    start = time.perf_counter()
    for first in range(0, len(order), 128):
        dataset[order[first : first + 128]]
    loading = time.perf_counter() - start
    watch.running = False
    watch.join()

    model = mumask.MaskedVAE(mdata)
    loader = model._make_data_loader(mdata, order[:12_800], batch_size=128)
    batches = list(loader)
    model.module.train()
    start = time.perf_counter()
    for tensors in batches:
        model.module.zero_grad()
        model.module(tensors)[2].loss.backward()
    per_cell = (time.perf_counter() - start) / 12_800
    return {
        "cells": n_cells,
        "input_MiB": round(size / 2**20),
        "peak_above_input_MiB": round(watch.peak - before),
        "peak_above_input_share": round((watch.peak - before) / (size / 2**20), 3),
        "register_s": round(registered, 1),
        "loading_s_per_epoch": round(loading, 1),
        "model_s_per_epoch": round(per_cell * n_cells, 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(*(int(a) for a in sys.argv[1:]))))
