"""Without labels and covariates MaskedVAE decodes without hidden layers; the choice goes with the model."""

from __future__ import annotations

import numpy as np
import pytest

from mumask import MaskedVAE
from mumask.datasets import simulate_mosaic


@pytest.mark.parametrize(
    ("setup", "linear"),
    [
        ({}, True),
        ({"batch_key": "one"}, True),
        ({"categorical_covariate_keys": ["one"]}, True),
        ({"batch_key": "batch"}, False),
        ({"categorical_covariate_keys": ["site"]}, False),
        ({"continuous_covariate_keys": ["age"]}, False),
        ({"labels_key": "cell_type"}, False),
    ],
)
def test_it_is_the_default_where_there_is_nothing_to_tell_apart(mosaic, setup, linear):
    mosaic.obs["one"] = "same"
    MaskedVAE.setup_mudata(mosaic, **setup)
    decoder = MaskedVAE(mosaic, n_latent=4, n_hidden=16).module.decoder
    assert decoder.n_hidden == (4 if linear else 16)
    assert (len(list(decoder.first.parameters())) == 0) == linear


def test_it_has_more_dimensions_and_more_steps(mosaic, monkeypatch):
    monkeypatch.setattr("mumask.model._training.STEPS", 33)
    monkeypatch.setattr("mumask.model._training.LINEAR_STEPS", 66)
    for batch_key, n_latent, n_epochs in ((None, 20, 22), ("batch", 15, 11)):
        MaskedVAE.setup_mudata(mosaic, batch_key=batch_key)
        model = MaskedVAE(mosaic, n_hidden=8)
        assert model.module.n_latent == n_latent
        model.train(batch_size=30, enable_progress_bar=False, accelerator="cpu")
        assert len(model.history["train_loss"]) == n_epochs


def test_it_can_be_chosen(mosaic):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    assert MaskedVAE(mosaic, n_latent=4, linear_decoder=True).module.decoder.n_hidden == 4
    MaskedVAE.setup_mudata(mosaic)
    assert MaskedVAE(mosaic, linear_decoder=False).module.decoder.n_hidden == 128
    assert MaskedVAE(mosaic, preset="inclust+").module.decoder.n_hidden == 200


@pytest.mark.parametrize("wide", [False, True])
def test_loadings_are_what_log_shares_gain_per_unit(mosaic, fit, monkeypatch, wide):
    """Beside the mean of the features, weighted by their shares of an average cell."""
    if wide:  # decoded from factors of the latent dimensions
        monkeypatch.setattr("mumask.nn._mosaic_coder.WIDE", 10)
    model = fit(mosaic, setup={"batch_key": None}, epochs=5, n_factors=3)
    assert ("rna" in model.module.decoder.factors) == wide
    z = model.get_latent_representation()
    logs = np.log(model.get_normalized_expression(modality="rna").to_numpy())
    logs -= logs @ model.module.transforms["rna"].profile.numpy()[:, None]
    design = np.column_stack([z, np.ones(len(z))])
    slopes = np.linalg.lstsq(design, logs, rcond=None)[0]
    np.testing.assert_allclose(design @ slopes, logs, atol=1e-3)
    loadings = model.get_loadings("rna")
    assert list(loadings.columns) == ["Z_0", "Z_1", "Z_2", "Z_3"]
    assert list(loadings.index) == list(model.feature_names("rna"))
    np.testing.assert_allclose(loadings.T, slopes[:-1], atol=1e-3)


def test_loadings_of_real_values_are_in_their_units(mosaic, fit):
    protein = mosaic["protein"]
    protein.X = protein.X.toarray() * 100.0 + 5000.0
    setup = {"batch_key": "batch", "likelihoods": {"protein": "gaussian"}}
    model = fit(mosaic, setup=setup, epochs=5, linear_decoder=True)
    having = np.isin(mosaic.obs_names, protein.obs_names)
    z = model.get_latent_representation()[having]
    as_if = {"modality": "protein", "transform_batch": model.batches[0]}
    values = model.get_normalized_expression(**as_if)[having].to_numpy()
    design = np.column_stack([z, np.ones(len(z))])
    slopes = np.linalg.lstsq(design, values, rcond=None)[0][:-1]
    loadings = model.get_loadings("protein")
    assert loadings.abs().to_numpy().max() > 1
    np.testing.assert_allclose(loadings.T, slopes, rtol=0.01, atol=0.2)


def test_with_hidden_layers_there_are_no_loadings(mosaic, fit):
    with pytest.raises(ValueError, match="linear_decoder=True"):
        fit(mosaic, epochs=1).get_loadings()
    model = fit(mosaic, setup={"batch_key": None}, epochs=1)
    with pytest.raises(ValueError, match="'lipid'"):
        model.get_loadings("lipid")


def test_a_query_and_a_saved_model_keep_it(tmp_path, fit):
    """Although a query brings a second batch, with which a model of its own would have hidden layers."""
    cells = simulate_mosaic(
        120, n_features={"rna": 30, "protein": 8}, batches={"a": ("rna", "protein"), "b": ("rna",)}
    )
    shown = cells[cells.obs["batch"] == "a"].copy()
    model = fit(shown, epochs=5)
    model.save(tmp_path / "model")
    loaded = MaskedVAE.load(tmp_path / "model", shown)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )
    query = cells[cells.obs["batch"] == "b"].copy()
    query = MaskedVAE.load_query_data(query, loaded)
    before = query.get_normalized_expression(modality="protein")
    query.train(max_epochs=2, enable_progress_bar=False, accelerator="cpu")
    query.save(tmp_path / "query")
    again = MaskedVAE.load(tmp_path / "query", query.adata)
    assert again.module.decoder.n_hidden == query.module.decoder.n_hidden == 4
    after = again.get_normalized_expression(modality="protein")
    assert np.isfinite(after.to_numpy()).all()
    assert not np.allclose(after, before)  # the vector of the new batch was trained
