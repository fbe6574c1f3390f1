"""Our models answer every kind of problem: latent space, labels, query, translation, imputation."""

import numpy as np
import pandas as pd
import pytest
from benchmarks.methods import cross_attention_mae, masked_vae
from benchmarks.problem import Block, Problem
from benchmarks.worker import Job
from scipy import sparse

import mumask

METHODS = {
    "vae": (masked_vae.run, {"model": {"n_latent": 4, "n_hidden": 16}}),
    "mae": (
        cross_attention_mae.run,
        {
            "model": {"n_latent": 4, "n_embed": 8, "n_heads": 2, "max_tokens": 2},
            "finetune": {"head_steps": 5},
        },
    ),
}
N_CELLS = 40


def part(names, prefix: str, n_features: int) -> Block:
    """Counts for some cells, none of them empty."""
    rng = np.random.default_rng(len(prefix) + n_features)
    values = rng.poisson(3.0, (len(names), n_features)).astype(np.float32) + (
        np.arange(n_features) == 0
    )
    features = np.array([f"{prefix}{i}" for i in range(n_features)])
    return Block(sparse.csr_matrix(values, dtype=np.float32), np.asarray(names), features)


def table(names, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, name="cell"))


@pytest.fixture(params=METHODS)
def ask(request):
    """Train for an epoch and answer."""
    run, settings = METHODS[request.param]
    return lambda problem: run(problem, Job(0, settings, max_epochs=1))


@pytest.fixture
def cells():
    return np.array([f"c{i}" for i in range(N_CELLS)])


@pytest.fixture
def paired(cells):
    return {"rna": part(cells, "g", 12), "protein": part(cells[::-1], "p", 5)}


def test_few_labels(ask, cells, paired):
    labels = ["Unknown"] * 10 + ["a", "b"] * (N_CELLS // 2 - 5)
    obs = table(cells, batch="x", label=labels)
    out = ask(Problem("T1b", obs, paired, asks=("labels", "latent")))
    assert len(out["latent"]) == N_CELLS and np.isfinite(out["latent"]).all()
    assert set(out["labels"]) <= {"a", "b"} and len(out["labels"]) == N_CELLS


def test_query_of_one_modality(ask, cells, paired):
    obs = table(cells, batch="x", label=np.where(np.arange(N_CELLS) % 2, "a", "b"))
    names = np.array(["q0", "q1", "q2"])
    query = Problem("T3", table(names, batch="query"), {"rna": part(names, "g", 12)})
    features = paired["protein"].features
    problem = Problem("T3", obs, paired, query, {"protein": features}, ("query_labels", "targets"))
    out = ask(problem)
    assert out["protein"].shape == (3, 5) and np.isfinite(out["protein"]).all()
    np.testing.assert_allclose(out["protein"].sum(axis=1), 0.0, atol=1e-5)
    assert set(out["query_labels"]) <= {"a", "b"}
    assert "latent" not in out


def test_translation_of_cells_taken_apart(ask, cells, paired):
    rna, protein = cells[:30], cells[10:]
    blocks = {
        "rna": paired["rna"].subset(cells=rna),
        "atac": Block(
            (paired["protein"].subset(cells=protein).values > 2).astype(np.float32),
            protein,
            paired["protein"].features,
        ),
    }
    keep = np.asarray(blocks["atac"].values.sum(1)).ravel() > 0
    blocks["atac"] = blocks["atac"].subset(cells=protein[keep])
    known = np.isin(cells, [*rna, *protein[keep]])
    targets = {"rna": np.array(["g1", "g2"]), "atac": np.array(["p1"])}
    problem = Problem(
        "T4b", table(cells[known], batch="x"), blocks, targets=targets, asks=("latent", "targets")
    )
    out = ask(problem)
    assert out["rna"].shape == ((~problem.has("rna")).sum(), 2)
    assert out["atac"].shape == ((~problem.has("atac")).sum(), 1)
    assert (0 <= out["atac"]).all() and (out["atac"] <= 1).all()


def test_genes_that_the_query_lacks(ask, cells):
    names = np.array([f"s{i}" for i in range(20)])
    spatial = part(names, "g", 12).subset(features=[f"g{i}" for i in range(9)])
    spatial.values[4] = 0.0  # a cell in which nothing was counted
    spatial.values.eliminate_zeros()
    query = Problem("T5", table(names, batch="query"), {"rna": spatial})
    hidden = np.array(["g10", "g9"])
    obs = table(cells, batch="reference")
    problem = Problem(
        "T5", obs, {"rna": part(cells, "g", 12)}, query, {"rna": hidden}, ("targets",)
    )
    out = ask(problem)
    assert out["rna"].shape == (20, 2)
    assert np.isnan(out["rna"][4]).all() and np.isfinite(np.delete(out["rna"], 4, axis=0)).all()


def test_hidden_genes_are_decoded_as_the_data_set_that_measured_them(cells, monkeypatch):
    names, decoded_as = np.array([f"s{i}" for i in range(20)]), []
    spatial = part(names, "g", 12).subset(features=[f"g{i}" for i in range(9)])
    query = Problem("T5", table(names, batch="query"), {"rna": spatial})
    problem = Problem(
        "T5",
        table(cells, batch="reference"),
        {"rna": part(cells, "g", 12)},
        query,
        {"rna": np.array(["g10"])},
        ("targets",),
    )
    impute = mumask.MaskedVAE.impute

    def watched(*args, transform_batch=None, **kwargs):
        decoded_as.append(transform_batch)
        return impute(*args, transform_batch=transform_batch, **kwargs)

    monkeypatch.setattr(mumask.MaskedVAE, "impute", watched)
    run, settings = METHODS["vae"]
    run(problem, Job(0, settings, max_epochs=1))
    assert decoded_as == ["reference"]
