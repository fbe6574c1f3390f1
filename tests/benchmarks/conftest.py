"""A toy task, a toy scorer and recorded runs: the harness without data, peers or long training."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

ROOT = Path(__file__).parents[2]
# benchmarks/ is no part of the installed package, and there is none outside of a checkout.
if (ROOT / "benchmarks").is_dir():
    sys.path.insert(0, str(ROOT))
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def problem():
    """Twelve cells with RNA, nine of them with protein in another order, and a query."""
    from benchmarks.problem import Block, Problem

    rng = np.random.default_rng(0)
    cells = np.array([f"c{i}" for i in range(12)])
    obs = pd.DataFrame(
        {"batch": ["01"] * 6 + ["2"] * 6, "label": ["a", "b", "Unknown"] * 4},
        index=pd.Index(cells, name="cell"),
    )
    rna = sparse.csr_matrix(rng.poisson(2.0, (12, 8)).astype(np.float32))
    protein = sparse.csr_matrix(rng.poisson(9.0, (9, 3)).astype(np.float32))
    genes, proteins = np.array([f"g{i}" for i in range(8)]), np.array(["p0", "p1", "p2"])
    query = pd.DataFrame({"batch": "q"}, index=pd.Index(["q0", "q1"], name="cell"))
    few = Block(rna[:2, :6].tocsr(), np.array(["q0", "q1"]), genes[:6])
    return Problem(
        "toy",
        obs,
        {"rna": Block(rna, cells, genes), "protein": Block(protein, cells[8::-1], proteins)},
        Problem("toy", query, {"rna": few}),
        {"rna": genes[6:]},
        ("latent", "targets"),
    )


@pytest.fixture
def scorer():
    """Scores that need no clustering."""
    return SimpleNamespace(
        mean=lambda latent: float(np.mean(latent)),
        feature_corr=lambda a, b: {"mSCC": float(np.abs(a - b).mean())},
    )


def _record(method: str, group: str, seed: int, ari: float, **more) -> dict:
    return {
        "kind": "run",
        "task": "T1",
        "method": method,
        "group": group,
        "package": method,
        "settings": {},
        "seed": seed,
        "date": "2026-01-01T00:00Z",
        "machine": {"cores": 2, "memory_gib": 8, "architecture": "x86_64", "threads": 1},
        "version": "1.0",
        "seconds": 10.0,
        "epochs": 20,
        "peak_mib": 100,
        "scores": {"ari": ari, "nmi": 0.5, "fmi": 0.5, "ari_res1": 0.4, "nmi_res1": 0.4},
        **more,
    }


@pytest.fixture
def records() -> list[dict]:
    """Three seeds of ours, a peer cut short, a circular reference, and a peer that failed."""
    failed = _record("MIDAS", "peer", 0, 0.0, error="ValueError: no such batch")
    del failed["scores"]
    return [
        *(_record("MaskedVAE", "ours", seed, ari) for seed, ari in enumerate((0.7, 0.9, 0.8))),
        _record("totalVI", "peer", 0, 0.6, settings={"max_epochs": 3}),
        _record("WNN", "peer", 0, 0.95),
        failed,
    ]
