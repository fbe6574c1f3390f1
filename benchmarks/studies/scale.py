"""Time per epoch and memory of MaskedVAE on simulated mosaics that grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import typer
from anndata import AnnData

import mumask
from benchmarks.records import append, machine, now
from benchmarks.runs import measured
from benchmarks.simulate import random_csr
from benchmarks.worker import peak_mib

from .inside import epoch_clock, quiet

# Features and share of non-zeros of the three modalities, and which cells have them.
SHAPES = {"rna": (2_000, 0.1), "protein": (100, 1.0), "atac": (20_000, 0.03)}
PRESENT = {"rna": (0.0, 0.7), "protein": (0.4, 0.8), "atac": (0.6, 1.0)}


def mosaic(n_cells: int, seed: int = 0) -> mudata.MuData:
    """Three modalities, each in a stretch of the cells, in two batches."""
    rng = np.random.default_rng(seed)
    names = np.array([f"cell{i}" for i in range(n_cells)])
    mods = {}
    for name, (n_features, density) in SHAPES.items():
        first, last = (int(share * n_cells) for share in PRESENT[name])
        adata = AnnData(random_csr(last - first, n_features, density, name == "atac", rng))
        adata.obs_names = names[first:last]
        adata.var_names = [f"{name}{i}" for i in range(n_features)]
        mods[name] = adata
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData(mods)
    mdata.obs["batch"] = pd.Categorical(np.where(np.arange(mdata.n_obs) % 2, "a", "b"))
    return mdata


def measure(n_cells: int) -> dict:
    """One epoch after registration; called in a process of its own."""
    quiet()
    mdata = mosaic(n_cells)
    matrices = [adata.X for adata in mdata.mod.values()]
    size = sum(x.data.nbytes + x.indices.nbytes + x.indptr.nbytes for x in matrices) / 2**20
    mumask.MaskedVAE.setup_mudata(mdata, batch_key="batch")
    model = mumask.MaskedVAE(mdata)
    clock = epoch_clock()
    model.train(
        max_epochs=1,
        callbacks=[clock],
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
    )
    return {
        "cells": n_cells,
        "seconds_per_epoch": clock.seconds[0],
        "peak_mib": peak_mib(),
        "input_mib": size,
    }


def sweep(sizes: list[int], out: Path, threads: int) -> None:
    """Measure every size and record it."""
    for n_cells in sizes:
        try:
            found = measured("benchmarks.studies.scale", [n_cells], threads)
        except subprocess.CalledProcessError as error:
            status = f"the process ended with status {error.returncode}"
            found = {"cells": n_cells, "error": status}
        append(out, {"kind": "scale", **found, "date": now(), "machine": machine(threads)})
        typer.echo(json.dumps(found))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
