"""Training from a file that need not fit into memory, beside training from memory.

A mosaic is written to a folder (2,000 genes and 200 proteins for 55 % and 30 % of the cells, 50,000
peaks for the last 55 %) and trained on for some steps, each source (``h5mu``, ``zarr``, ``memory``) in a
process of its own: peak resident memory, cells per second, seconds of registration. The pages of the
files are dropped from the system's cache before each run where the system allows it.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
import warnings
from pathlib import Path

import h5py
import mudata
import numpy as np
import pandas as pd
import torch
import typer
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from lightning.pytorch.callbacks import Callback
from scipy import sparse

import mumask

from .data_path import GENE_DENSITY, GENES, PEAK_DENSITY, PEAKS, random_csr
from .records import append, machine, now
from .runs import measured

PROTEINS, CHUNK = 200, 20_000
MODALITIES = {"rna": (0.0, 0.55), "protein": (0.0, 0.3), "atac": (0.45, 1.0)}
WARM_UP = 40


def chunk(modality: str, n: int, rng):
    """Values of `n` cells."""
    if modality == "rna":
        return random_csr(n, GENES, GENE_DENSITY, False, rng)
    if modality == "atac":
        return random_csr(n, PEAKS, PEAK_DENSITY, True, rng)
    return sparse.csr_matrix(1 + rng.poisson(5.0, (n, PROTEINS)).astype(np.float32))


def write(folder: Path, n_cells: int) -> None:
    """Write ``m.h5mu`` and ``<modality>.zarr`` chunk by chunk; the files are as mudata writes them."""
    names = np.array([f"cell{i}" for i in range(n_cells)])
    frames, n_features = {}, {"rna": GENES, "protein": PROTEINS, "atac": PEAKS}
    for modality, (start, stop) in MODALITIES.items():
        frames[modality] = pd.DataFrame(index=names[int(start * n_cells) : int(stop * n_cells)])
    empty = {
        m: AnnData(
            sparse.csr_matrix((len(obs), n_features[m]), dtype=np.float32),
            obs=obs,
            var=pd.DataFrame(index=[f"{m}{i}" for i in range(n_features[m])]),
        )
        for m, obs in frames.items()
    }
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData(empty)
    mdata.obs["batch"] = pd.Categorical(np.where(np.arange(mdata.n_obs) % 2, "a", "b"))
    mdata.write(folder / "m.h5mu")
    with h5py.File(folder / "m.h5mu", "a") as file:
        for m, obs in frames.items():
            store = zarr.open_group(folder / f"{m}.zarr", mode="w")
            rng, targets = np.random.default_rng(0), (file["mod"][m], store)
            del file["mod"][m]["X"]
            for first in range(0, len(obs), CHUNK):
                values = chunk(m, min(CHUNK, len(obs) - first), rng)
                values.indptr = values.indptr.astype(np.int64)
                for target in targets:
                    if first:
                        sparse_dataset(target["X"]).append(values)
                    else:
                        write_elem(target, "X", values)


def open_source(folder: Path, source: str) -> mudata.MuData:
    """The data as a user opens them."""
    if source == "memory":
        return mudata.read_h5mu(folder / "m.h5mu")
    mdata = mudata.read_h5mu(folder / "m.h5mu", backed="r")
    if source == "h5mu":
        return mdata
    mods = {}
    for m in mdata.mod:
        x = sparse_dataset(zarr.open(folder / f"{m}.zarr", mode="r")["X"])
        mods[m] = AnnData(x, obs=mdata[m].obs, var=mdata[m].var)
    with mudata.set_options(pull_on_update=False):
        lazy = mudata.MuData(mods)
    lazy.obs["batch"] = mdata.obs["batch"].reindex(lazy.obs_names)
    return lazy


class Clock(Callback):
    """When every step ended."""

    def __init__(self):
        self.ends = []

    def on_train_batch_end(self, *_):
        """Look at the clock."""
        self.ends.append(time.perf_counter())


def measure(folder: Path, source: str, n_steps: int) -> dict:
    """Register and train in this process."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mdata = open_source(folder, source)
    start = time.perf_counter()
    kinds = {"rna": "nb", "protein": "nb", "atac": "bernoulli"}
    mumask.MaskedVAE.setup_mudata(mdata, batch_key="batch", likelihoods=kinds)
    registered = time.perf_counter() - start
    model, clock = mumask.MaskedVAE(mdata), Clock()
    # Not the verbs around it: `train` would also calibrate on the cells afterwards.
    model.train(
        max_epochs=1, max_steps=n_steps, callbacks=[clock], enable_progress_bar=False, devices=1
    )
    ends = clock.ends[min(WARM_UP, len(clock.ends) // 2) :]
    return {
        "source": source,
        "cells": mdata.n_obs,
        "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "register_s": round(registered, 1),
        "first_step_s": round(clock.ends[0] - start - registered, 1),
        "cells_per_s": round(128 * (len(ends) - 1) / (ends[-1] - ends[0])),
        "steps": len(clock.ends),
    }


def compare(folder: Path, n_cells: int, n_steps: int, sources: list[str], out: Path) -> None:
    """Write the files if they are not there, then measure every source and record it."""
    if not (folder / "m.h5mu").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, n_cells)
    for source in sources:
        found = measured("benchmarks.out_of_core", [folder.resolve(), source, n_steps], threads=1)
        append(out, {"kind": "out_of_core", **found, "date": now(), "machine": machine(1)})
        typer.echo(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
