"""Plain baselines learn from what is shown, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from benchmarks.methods import baselines
from benchmarks.problem import Block, Problem
from benchmarks.worker import Job
from scipy import sparse


@pytest.mark.parametrize("method", [baselines.logistic, baselines.knn])
def test_no_cell_is_given_the_name_of_unlabelled_ones(method, problem, monkeypatch):
    monkeypatch.setattr(baselines, "FOR_LABELS", 3)
    problem.task, problem.query = "T1b", None
    problem.blocks["protein"] = Block(
        problem.blocks["rna"].values[:, :3].tocsr(), problem.cells, np.array(["p0", "p1", "p2"])
    )
    labels = method(problem, Job())["labels"]
    assert set(labels) <= {"a", "b"} and len(labels) == len(problem.cells)


def test_values_at_the_depth_of_the_cell():
    """A gene that takes a tenth of what else a cell has does so at any depth."""
    rng = np.random.default_rng(0)
    cells, genes = np.array([f"c{i}" for i in range(60)]), np.array(["g0", "g1", "g2", "hidden"])
    shared = rng.poisson(20.0, (60, 3)) * rng.integers(1, 6, (60, 1)) * 10
    values = np.hstack([shared, shared.sum(1, keepdims=True) / 10])
    block = Block(sparse.csr_matrix(values, dtype=np.float32), cells, genes)
    query = Block(sparse.csr_matrix(shared[:5] * 3, dtype=np.float32), cells[:5], genes[:3])
    table = lambda names: pd.DataFrame({"batch": "x"}, index=pd.Index(names, name="cell"))
    problem = Problem(
        "T5",
        table(cells),
        {"rna": block},
        Problem("T5", table(cells[:5]), {"rna": query}),
        {"rna": genes[3:]},
        ("targets",),
    )
    found = np.expm1(baselines.knn_depth(problem, Job())["rna"])
    np.testing.assert_allclose(found[:, 0], 3 * values[:5, 3], rtol=1e-4)
