"""Counting for the roofline, the simulated mosaics, and the variants of the ablations."""

import numpy as np
import pandas as pd
import pytest
from benchmarks.methods import METHODS
from benchmarks.problem import Block, Problem
from benchmarks.simulate import random_csr
from benchmarks.studies import inside, roofline, scale
from benchmarks.studies.ablation import STUDIES
from scipy import sparse


def test_work_is_two_operations_per_weight_and_product(mosaic, fit):
    model = fit(mosaic, epochs=1, n_layers=1)
    layers = roofline.linear_layers(model, {"rna": 0.1, "protein": 1.0, "atac": 0.02})
    sizes = {(n_in, n_out) for n_in, n_out, *_ in layers}
    assert {(14, 16), (6, 16), (40, 16)} <= sizes  # first layers, features to hidden units
    assert {(16, 14), (16, 6), (16, 40)} <= sizes  # last layers
    assert (14, 16, False, 0.1) in layers and (16, 14, True, 1.0) in layers
    work = roofline.work_per_cell([(14, 16, False, 0.5), (16, 14, True, 1.0)])
    assert work == 2 * 14 * 16 * (2 * 0.5 + 3)


def test_the_fraction_is_of_the_longer_time():
    found = {
        "flop_per_cell": 1e6,
        "bytes_per_cell": 1e4,
        "product_gflops": 128.0,
        "copy_gbytes": 12.8,
        "step_ms": 4.0,
    }
    verdict = roofline.verdict(found)
    assert verdict["product_ms"] == pytest.approx(1.0)
    assert verdict["movement_ms"] == pytest.approx(0.1)
    assert verdict["fraction"] == pytest.approx(0.25)


def test_simulated_mosaics_have_the_density_asked_for():
    values = random_csr(20, 1000, 0.05, True, np.random.default_rng(0))
    assert values.nnz == 20 * 50 and set(values.data) == {1.0}
    assert values.has_canonical_format
    mdata = scale.mosaic(50)
    assert set(mdata.mod) == set(scale.SHAPES)
    assert mdata.n_obs == 50 and mdata["protein"].n_obs == 20


@pytest.fixture
def saved_problem(tmp_path):
    names = np.array([f"c{i}" for i in range(60)])
    rng = np.random.default_rng(0)
    blocks = {}
    for modality, n_features in (("rna", 10), ("protein", 4)):
        values = sparse.csr_matrix(1.0 + rng.poisson(3.0, (60, n_features)).astype(np.float32))
        blocks[modality] = Block(
            values, names, np.array([f"{modality}{i}" for i in range(n_features)])
        )
    obs = pd.DataFrame({"batch": "x"}, index=pd.Index(names, name="cell"))
    Problem("T1", obs, blocks).save(tmp_path / "p")
    return tmp_path / "p"


@pytest.mark.parametrize("name", ["MaskedVAE", "totalVI"])
def test_throughput(name, saved_problem, monkeypatch):
    monkeypatch.setattr(inside, "BATCH_SIZE", 20)
    found = inside.throughput(name, saved_problem, 1)
    assert found["train_cells_per_s"] > 0 and found["latent_cells_per_s"] > 0


def test_a_step_is_measured(saved_problem, monkeypatch):
    monkeypatch.setattr(roofline, "BATCH_SIZE", 20)
    found = roofline.inside(saved_problem)
    assert found["step_ms"] > found["loading_ms"] > 0
    assert 0 < found["fraction"] < 1


def test_the_clocks_count_steps_and_epochs(mosaic, fit):
    steps, epochs = inside.step_clock(), inside.epoch_clock()
    fit(mosaic, epochs=2, train={"callbacks": [steps, epochs]})
    assert len(epochs.seconds) == 2
    assert len(steps.seconds) == 2 * -(-mosaic.n_obs // 32)
    assert sum(steps.seconds) <= sum(epochs.seconds)


@pytest.mark.parametrize("name", STUDIES)
def test_ablations_start_from_the_default(name):
    study = STUDIES[name]
    assert study.variants["default"] == {}
    assert study.method in METHODS.values()
    unlabelled = study.variants_of("T2")
    assert "labels weight 1" not in unlabelled
    assert len({str(v) for v in study.variants.values()}) == len(study.variants)
