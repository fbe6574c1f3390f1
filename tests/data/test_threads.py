"""Threads of torch, in processes of their own: numba starts its threads once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CALLS = {
    "scanpy": "sc.pp.normalize_total(mdata['rna'])",
    "prepare": "mumask.pp.prepare(mdata, n_top_genes=20)",
    "embedding": "mumask.pl.embedding_panels(*np.random.randn(2, 90, 5), mdata, ['cell_type'])",
}


@pytest.mark.parametrize("call", CALLS)
def test_torch_keeps_its_threads(call):
    code = f"""
import numpy as np, scanpy as sc, torch, mumask
mdata = mumask.datasets.simulate_mosaic(90, {{"a": ["rna", "protein"]}}, n_cell_types=2)
torch.set_num_threads(2)
torch.get_num_threads()  # from here on torch relies on it
{CALLS[call]}
print(torch.get_num_threads())
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "3", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    kept = done.stdout.split()[-1]
    # The first shows what the others are about; if it is over, so is their reason.
    assert kept == ("3" if call == "scanpy" else "2")
