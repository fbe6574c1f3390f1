"""Decoding: how much of it is kept at a time, and in a user's inference mode."""

from __future__ import annotations

import weakref

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from mumask import CrossAttentionMAE, MaskedVAE


@pytest.mark.parametrize(
    ("options", "hidden_at_once"),
    [
        ({"n_samples": 8}, 2),
        ({"n_samples": 8, "transform_batch": ["cite", "asap"]}, 4),
        ({"transform_batch": ["cite", "asap", "solo"] * 3}, 9),
    ],
)
def test_draws_and_batches_are_not_kept(trained, monkeypatch, options, hidden_at_once):
    """The sum of what was decoded is; what is decoded next takes the place of the last."""

    def watch(owner, name):
        inner, made, alive = getattr(owner, name), [], []

        def call(*args, **kwargs):
            result = inner(*args, **kwargs)
            made.append(weakref.ref(result))
            alive.append(sum(one() is not None for one in made))
            return result

        monkeypatch.setattr(owner, name, call)
        return alive

    hidden, values = watch(trained, "_hidden_as_if"), watch(trained.module, "expected")
    trained.get_normalized_expression(modality="rna", **options)
    assert len(values) == len(hidden) >= 8
    assert max(values) == 1
    assert max(hidden) <= hidden_at_once


@pytest.mark.parametrize("kind", [set, dict.fromkeys, tuple, np.array])
def test_a_source_is_no_generated_modality_however_it_is_listed(trained, kind):
    """What is encoded is decoded at the average depth, not at the expected one."""
    expected = trained.get_normalized_expression(modality="rna", source=["rna", "protein"])
    found = trained.get_normalized_expression(modality="rna", source=kind(["rna", "protein"]))
    pd.testing.assert_frame_equal(found, expected)


def test_the_number_of_draws_is_no_boolean(trained):
    with pytest.raises(ValueError, match="`n_samples`=True"):
        trained.get_normalized_expression(n_samples=True, return_mean=False)


@pytest.fixture
def query(trained, make_mosaic):
    """Cells of a new batch, which are refined along gradients."""
    mosaic = make_mosaic(20, {"new": ("rna", "protein")}, seed=2)
    for column in ("site", "donor", "some_labels"):
        mosaic.obs[column] = trained.adata.obs[column].iloc[0]
    mosaic["rna"].layers["seen"] = np.ones(mosaic["rna"].shape, dtype=bool)
    return MaskedVAE.load_query_data(mosaic, trained)


def test_the_users_inference_mode_changes_nothing(query):
    getters = [
        query.get_latent_representation,
        query.get_normalized_expression,
        query.get_reconstruction_error,
        lambda: query.impute()["rna"].X,
    ]
    expected = [np.asarray(get()) for get in getters]
    with torch.inference_mode():
        found = [np.asarray(get()) for get in getters]
        assert torch.is_inference_mode_enabled()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    query.module.refine_steps = 0
    assert np.abs(query.get_latent_representation() - expected[0]).max() > 0.01


def test_an_error_leaves_the_users_modes_as_they_were(query, monkeypatch):
    def fails(*args, **kwargs):
        raise ArithmeticError

    monkeypatch.setattr(query.module, "inference", fails)
    with pytest.raises(ArithmeticError):
        with torch.inference_mode():
            query.get_latent_representation()
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_nothing_is_refined_where_there_are_no_gradients(query):
    """As in a validation of Lightning's."""
    (tensors,) = query._minibatches(query.adata, np.arange(20), None)
    encode = lambda: query.module.inference(tensors, sample=False)["mean"]
    with torch.inference_mode():
        encoded = encode().clone()
    refined, query.module.refine_steps = encode(), 0
    assert torch.equal(encoded, encode())
    assert (refined - encoded).abs().max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"library_size": -1.0},
            ValueError,
            "`library_size`=-1.0: choose a positive, finite number",
        ),
        ({"library_size": np.inf}, ValueError, "`library_size`=inf: choose a positive, finite"),
        ({"library_size": "latent"}, TypeError, "`library_size` is a number"),
        ({"transform_batch": []}, ValueError, "`transform_batch` is empty; choose from"),
    ],
)
def test_what_cannot_be_decoded(trained, arguments, error, message):
    with pytest.raises(error, match=message):
        trained.get_normalized_expression(**arguments)
    if "library_size" in arguments:
        with pytest.raises(error, match=message):
            trained.predict_condition({"site": "x"}, **arguments)


def test_no_cell_has_no_bound(trained):
    assert np.isnan(trained.get_elbo(indices=[]))


@pytest.mark.parametrize("source", [None, "rna"])
def test_a_total_that_is_asked_for_is_given(mosaic, fit, source):
    """Also where the model expects another one of each cell, as of a modality that it generates."""
    model, options = fit(mosaic, epochs=2), {"modality": "protein", "source": source}
    cells = np.flatnonzero(mosaic.obs["batch"] != "asap")
    found = model.get_normalized_expression(indices=cells, library_size=50.0, **options)
    np.testing.assert_allclose(found.sum(axis=1), 50.0, rtol=1e-4)
    if source is not None:  # else the test says nothing
        expected = model.get_normalized_expression(indices=cells, **options).sum(axis=1)
        assert expected.std() > 0.01


def test_completed_cells_keep_their_own_places(mosaic, fit):
    mosaic.obsm["spatial"] = np.arange(2.0 * mosaic.n_obs).reshape(-1, 2)
    mosaic.obsm["table"] = pd.DataFrame(mosaic.obsm["spatial"], mosaic.obs_names, ["x", "y"])
    complete = fit(mosaic, epochs=1).impute(indices=[40, 3, 17], modalities=["protein"])
    assert list(complete.obs_names) == list(mosaic.obs_names[[40, 3, 17]])
    for key in ("spatial", "table"):
        np.testing.assert_array_equal(complete.obsm[key], mosaic.obsm["spatial"][[40, 3, 17]])


def test_a_cell_without_counts_is_completed_at_its_expected_depth(mosaic, fit):
    """What it has was counted off its panel: a total of all features is not one of the panel."""
    panel = [f"protein{i}" for i in range(2, 6)]
    model = fit(mosaic, setup={"panels": {"protein": {"cite": panel}}}, epochs=2)
    protein = mosaic["protein"]
    row = int(np.flatnonzero(protein.obs_names.str.startswith("cite"))[0])
    cell, values = protein.obs_names[row], protein.X.toarray()
    values[row] = [7, 0, 0, 0, 0, 0]
    protein.X = sp.csr_matrix(values)
    found = model.impute(indices=[cell], modalities=["protein"])["protein"].X[0]
    (number,) = mosaic.obs_names.get_indexer([cell])
    ((_, _, hidden),) = model._decoded(model.adata, np.array([number]), None, [None], None)
    with torch.no_grad():
        ((hidden,),) = hidden
        total = model.module.expected_total(hidden, "protein")
        expected = model.module.expected(hidden, "protein", total)[0]
    np.testing.assert_array_equal(found[2:], 0)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-4)


@pytest.mark.parametrize("cls", [MaskedVAE, CrossAttentionMAE])
def test_a_cell_without_counts_on_its_panel_is_of_average_depth(cls, make_mosaic):
    """The depth is that of all features; held to the few of the panel it was many times as large."""
    mosaic = make_mosaic(40)
    cls.setup_mudata(mosaic, batch_key="batch")
    sizes = {"n_latent": 4, "n_hidden": 16} if cls is MaskedVAE else {"n_embed": 16, "n_latent": 9}
    model = cls(mosaic, **sizes)
    model.train(max_epochs=5, enable_progress_bar=False, accelerator="cpu")
    query = make_mosaic(20, {"new": ("rna",)}, seed=3)
    rna = query["rna"]
    rna.X = rna.X.toarray()
    rna.X[0, :3], rna.X[0, 3] = 0, 1
    rna.var_names = [name if n < 3 else f"other{n}" for n, name in enumerate(rna.var_names)]
    query.update()
    mapped = cls.load_query_data(query, model)
    totals = mapped.impute(modalities=["rna"])["rna"].to_df().sum(axis=1)
    average = mapped.registry_["field_registries"]["X_rna"]["state_registry"]["total"]
    assert totals[rna.obs_names[0]] < 1.5 * average
