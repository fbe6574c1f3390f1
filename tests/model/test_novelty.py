"""Novelty: one known cell in a hundred exceeds 0.99, however few cells tell; flags of new types."""

from __future__ import annotations

import logging
from copy import deepcopy
from types import SimpleNamespace

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy.spatial.distance import cdist

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.datasets import simulate_mosaic
from mumask.model._calibration import LEVELS, CalibrationMixin, fit_temperature


class Few:
    """What `_novelty` reads of a model."""

    modalities = ("rna",)
    _view_of, _novelty = CalibrationMixin._view_of, CalibrationMixin._novelty

    def __init__(self, known: np.ndarray):
        logs = np.log(known)
        view = {
            "modalities": ["rna"],
            "n_cells": len(known),
            "distance": np.quantile(known, LEVELS),
            "log_distance": [logs.mean(), logs.std(ddof=1)],
        }
        self.known_types_ = {"views": [view]}


@pytest.mark.parametrize("n_known", [3, 20, 98, 99, 500])
def test_share_of_known_cells_that_are_flagged(n_known):
    rng = np.random.default_rng(0)
    draw = lambda n: np.exp(rng.normal(1, 0.4, n))
    flagged = []
    for _ in range(400):
        novelty = Few(draw(n_known))._novelty(np.ones((200, 1), bool), draw(200))
        flagged.append((novelty > 0.99).mean())
    assert np.mean(flagged) == pytest.approx(0.01, abs=0.004)


@pytest.mark.parametrize("n_known", [10, 200])
def test_farther_is_more_novel(n_known):
    known = np.exp(np.random.default_rng(0).normal(size=n_known))
    distance = np.sort(np.exp(np.random.default_rng(1).normal(size=50)) * 3)
    novelty = Few(known)._novelty(np.ones((50, 1), bool), distance)
    assert (np.diff(novelty) >= 0).all() and novelty[-1] > 0.9


def test_a_view_of_few_cells_takes_the_temperature_of_all():
    """Six cells have proteins; of two types, ten are needed for a temperature."""
    names = [f"c{i}" for i in range(80)]
    parts = {"rna": names, "protein": names[-6:]}

    class Judged:
        modalities = list(parts)
        adata = md.MuData(
            {
                m: ad.AnnData(
                    np.ones((len(c), 1)), obs=pd.DataFrame(index=c), var=pd.DataFrame(index=[m])
                )
                for m, c in parts.items()
            }
        )
        module = SimpleNamespace(n_classes=2)
        _calibrate_on, _views = CalibrationMixin._calibrate_on, CalibrationMixin._views
        _distance = CalibrationMixin._distance

        def _latent_and_logits(self, mdata, cells, view=None):
            rng = np.random.default_rng(len(cells))
            sharpness = 1 if view is None else 1 + len(view)
            logits = rng.normal(size=(len(cells), 2)) + 1.5 * np.eye(2)[codes[cells]]
            return rng.normal(size=(len(cells), 3)), sharpness * logits

    codes, held, model = np.arange(80) % 2, np.arange(40, 80), Judged()
    model._calibrate_on(codes, held)
    overall = fit_temperature(model._latent_and_logits(None, held)[1], codes[held])
    found = {tuple(v["modalities"]): v for v in model.known_types_["views"]}
    assert [view["n_cells"] for view in found.values()] == [6, 40, 6]
    assert found["rna", "protein"]["temperature"] == found["protein",]["temperature"] == overall
    assert found["rna",]["temperature"] == pytest.approx(2 * overall, rel=0.05)


def test_too_few_labels_are_said(mosaic, fit, caplog):
    with caplog.at_level(logging.WARNING, "mumask"):
        model = fit(mosaic, setup={"labels_key": "some_labels"}, epochs=1)
    assert "judged by cells of the training" in caplog.text
    assert all(view["n_cells"] >= 3 for view in model.known_types_["views"])
    # And no cell is one of its own neighbours.
    labelled = np.flatnonzero(mosaic.obs["some_labels"].to_numpy(str) != "Unknown")
    kept = np.setdiff1d(labelled, model.validation_indices)
    z, k = model.known_types_["cells"], model.known_types_["n_neighbors"]
    distance = np.sort(cdist(z, z), axis=1)[:, 1 : k + 1].mean(axis=1)
    both = mosaic.obs["batch"].to_numpy()[kept] == "cite"
    (view,) = (v for v in model.known_types_["views"] if v["modalities"] == ["rna", "protein"])
    np.testing.assert_allclose(view["distance"], np.quantile(distance[both], LEVELS), rtol=1e-3)


# Flags of new types


@pytest.fixture(scope="module", params=[MaskedVAE, CrossAttentionMAE])
def annotated(request):
    """A labelled reference, and other cells of the same types."""
    scvi.settings.seed = 0
    mdata = simulate_mosaic(  # of fewer, the median of those that calibrate is off by .05
        2000, {"one": ("rna", "protein")}, n_features={"rna": 60, "protein": 12}, seed=3
    )
    first = np.random.default_rng(0).random(mdata.n_obs) < 0.6
    reference, query = mdata[first].copy(), mdata[~first].copy()
    request.param.setup_mudata(reference, batch_key="batch", labels_key="cell_type")
    small = {"n_embed": 32, "n_encoder_layers": 1} if request.param is CrossAttentionMAE else {}
    model = request.param(reference, n_latent=10, **small)
    # MaskedVAE learns from 60 % of the cells and judges the others; CrossAttentionMAE sets a fifth
    # of the labels aside by itself.
    share = {"train_size": 0.6} if request.param is MaskedVAE else {}
    model.train(max_epochs=8, enable_progress_bar=False, **share)
    if request.param is CrossAttentionMAE:
        model.finetune(head_steps=100)
    return model, query


@pytest.mark.parametrize("source", [None, "rna", "protein"])
@pytest.mark.parametrize("known_share", [0.9, 0.97])
def test_flagged_share_of_known_types(annotated, source, known_share):
    """Of new cells of known types as many are flagged as was asked for, from any modality."""
    model, query = annotated
    table = model.annotate(query, source=source, known_share=known_share)
    n = [model.known_types_["views"][0]["n_cells"], query.n_obs]
    deviation = np.sqrt(known_share * (1 - known_share) * (1 / n[0] + 1 / n[1]))
    expected = pytest.approx(1 - known_share, abs=3 * deviation)
    assert table["mumask_new_type"].mean() == expected


@pytest.mark.parametrize("source", [None, "rna", "protein"])
def test_each_set_of_modalities_has_its_own_temperature(annotated, source):
    """What divides the logits is what was fitted to cells seen through the same modalities."""
    model, query = annotated
    probabilities = model.predict(query, soft=True, source=source)
    (number,) = [
        number
        for number, view in enumerate(model.known_types_["views"])
        if view["modalities"] == ([source] if source else ["rna", "protein"])
    ]
    kept, model.known_types_ = model.known_types_, deepcopy(model.known_types_)
    for other, view in enumerate(model.known_types_["views"]):
        view["temperature"] *= 2 if other == number else 7
    hotter = model.predict(query, soft=True, source=source)
    model.known_types_ = kept
    assert (probabilities.dtypes == np.float32).all()
    half = np.sqrt(probabilities)
    np.testing.assert_allclose(hotter, half.div(half.sum(axis=1), axis=0), rtol=1e-4, atol=1e-5)


def test_cells_are_encoded_once(annotated, monkeypatch):
    model, query = annotated
    encode, seen = model.module.inference, []

    def counting(tensors, **kwargs):
        seen.append(len(tensors["batch"]))
        return encode(tensors, **kwargs)

    monkeypatch.setattr(model.module, "inference", counting)
    table = model.annotate(query)
    assert sum(seen) == query.n_obs
    assert table["mumask_label"].equals(model.predict(query))
    assert table["mumask_novelty"].equals(model.get_novelty(query))
    np.testing.assert_allclose(table["mumask_uncertainty"], model.get_label_uncertainty(query))


def test_a_type_without_a_label_stands_out(annotated):
    """Cells of a profile that no type has are farther out than nearly all known ones."""
    model, query = annotated
    strange = md.MuData({name: query[name][:200].copy() for name in query.mod})
    strange.obs["batch"] = "one"
    rng = np.random.default_rng(0)
    for adata in strange.mod.values():
        adata.X = adata.X[:, rng.permutation(adata.n_vars)]
    novelty = model.get_novelty(strange)
    assert novelty.median() > 0.9
    assert model.get_novelty(query).median() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("scale", [0.08, 0.3, 1.0, 10.0, 100.0])
def test_the_temperature_is_the_most_likely_one(scale):
    """Whatever the scale of the logits, also where a step along the gradient changes little."""
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(5, size=400), rng.normal(size=(400, 5))
    logits[np.arange(400), labels] += 1.0
    grid = np.linspace(np.log(0.2), np.log(10.0), 2001)
    loss = [
        torch.nn.functional.cross_entropy(
            torch.as_tensor(scale * logits / np.exp(log_t)), torch.as_tensor(labels)
        )
        for log_t in grid
    ]
    found = fit_temperature((scale * logits).astype(np.float32), labels)
    assert np.log(found) == pytest.approx(grid[np.argmin(loss)], abs=5e-3)
