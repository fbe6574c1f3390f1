"""Threads of torch, where numba starts its own in the middle of a call."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import mumask

RNA = "ad.AnnData(sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (90, 50)) * 1.0))"
CALLS = {
    "scanpy": f"sc.pp.normalize_total({RNA})",
    "prepare": "import mumask, mudata as md;"
    f"mumask.pp.prepare(md.MuData({{'rna': {RNA}}}), n_top_genes=20)",
}


@pytest.mark.parametrize("call", CALLS)
def test_torch_keeps_its_threads(call):
    """In processes of their own: numba starts its threads once."""
    code = f"""
import anndata as ad, numpy as np, scanpy as sc, torch
from scipy import sparse
torch.set_num_threads(2)
torch.get_num_threads()  # from here on torch relies on it
{CALLS[call]}
print(torch.get_num_threads())
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    kept = done.stdout.split()[-1]
    # The first shows what the others are about; if it is over, so is their reason.
    assert kept == ("3" if call == "scanpy" else "2")


def test_torch_keeps_its_threads_when_cells_are_drawn(monkeypatch):
    """In this process, as numba would compile for long: by functions that do what it does."""

    def neighbors(cells, **options):
        torch.set_num_threads(3)

    def umap(cells, **options):
        torch.set_num_threads(3)
        cells.obsm["X_umap"] = cells.obsm["latent"][:, :2]

    monkeypatch.setattr("scanpy.pp.neighbors", neighbors)
    monkeypatch.setattr("scanpy.tl.umap", umap)
    obs = pd.DataFrame({"cell_type": ["a", "b"] * 10})
    torch.set_num_threads(2)
    mumask.pl.embedding_panels(*np.random.randn(2, 20, 5), obs, "cell_type", show=False)
    assert torch.get_num_threads() == 2
