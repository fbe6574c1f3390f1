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


def test_it_can_be_chosen(mosaic):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    assert MaskedVAE(mosaic, n_latent=4, linear_decoder=True).module.decoder.n_hidden == 4
    MaskedVAE.setup_mudata(mosaic)
    assert MaskedVAE(mosaic, linear_decoder=False).module.decoder.n_hidden == 128
    assert MaskedVAE(mosaic, preset="inclust+").module.decoder.n_hidden == 200


def test_log_shares_are_linear_in_the_latent_space(mosaic, fit):
    """The log of normalised expression, less the cell's mean of it, is ``z`` times weights plus bias."""
    model = fit(mosaic, setup={"batch_key": None}, epochs=5)
    z = model.get_latent_representation()
    logs = np.log(model.get_normalized_expression(modality="rna").to_numpy())
    logs -= logs.mean(axis=1, keepdims=True)
    design = np.column_stack([z, np.ones(len(z))])
    fitted = design @ np.linalg.lstsq(design, logs, rcond=None)[0]
    np.testing.assert_allclose(fitted, logs, atol=1e-3)


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
