"""Measurements drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
from scvi.criticism import PosteriorPredictiveCheck

from mumask import CrossAttentionMAE, MaskedVAE


def test_rows_are_the_cells_that_have_the_modality(trained):
    mdata = trained.adata
    drawn = trained.posterior_predictive_sample()
    assert list(drawn) == trained.modalities
    for name, values in drawn.items():
        assert values.shape == mdata[name].shape
    chosen = mdata.obs_names[[70, 3, 40, 71]]  # two without proteins
    some = trained.posterior_predictive_sample(indices=chosen, modalities=["protein"], n_samples=3)
    assert list(some) == ["protein"]
    assert some["protein"].shape == (2, 6, 3)
    none = trained.posterior_predictive_sample(indices=[], n_samples=2)
    assert none["rna"].shape == (0, 14, 2)


def test_draws_are_like_the_data(trained):
    """Whole numbers, with the totals that cells have, and gaps where nothing was measured."""
    mdata = trained.adata
    drawn = trained.posterior_predictive_sample(n_samples=200, batch_size=17)
    for name, values in drawn.items():
        draws = values.todense()
        assert (draws >= 0).all()
        assert (draws == draws.round()).all()
        order = mdata.obs_names[mdata.obs_names.isin(mdata[name].obs_names)]
        x = mdata[name][order].X.toarray()
        measured = np.ones(x.shape, dtype=bool)
        if name == "rna":
            measured = mdata[name][order].layers["seen"]
        if name == "protein":
            measured[np.ix_(order.str.startswith("cite"), [0, 1])] = False
        assert not draws[~measured].any()
        assert draws[measured].any(axis=-1).mean() > 0.9
        total = np.where(measured, x, 0).sum(axis=1)
        around = draws.sum(axis=1).mean(axis=-1) / total
        assert np.quantile(np.abs(around - 1), 0.9) < 0.15, name
        assert (draws.var(axis=-1)[measured] > 0).mean() > 0.9


def test_same_seed_same_draws(trained):
    scvi.settings.seed = 1
    one = trained.posterior_predictive_sample(modalities=["rna"])["rna"].todense()
    other = trained.posterior_predictive_sample(modalities=["rna"])["rna"].todense()
    scvi.settings.seed = 1
    again = trained.posterior_predictive_sample(modalities=["rna"])["rna"].todense()
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_criticism_of_scvi_tools(trained):
    mdata = trained.adata.copy()
    protein = mdata["protein"]
    protein.layers["whole"] = protein.X.astype(np.int64)
    check = PosteriorPredictiveCheck(
        mdata, {"ours": trained}, count_layer_key="whole", n_samples=4, modality="protein"
    )
    check.zero_fraction()
    zeros = check.metrics["zero_fraction"]
    assert len(zeros) == protein.n_vars
    assert np.abs(zeros["ours"] - zeros["Raw"]).mean() < 0.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "at least 1"),
        ({"n_samples": None}, "at least 1"),
        ({"modalities": ["rna", "metabolites"]}, "'metabolites' is not in the model"),
        ({"modalities": "rna"}, "list"),
    ],
)
def test_what_cannot_be_drawn(trained, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        trained.posterior_predictive_sample(**arguments)


def test_only_models_with_a_posterior():
    assert hasattr(MaskedVAE, "posterior_predictive_sample")
    assert not hasattr(CrossAttentionMAE, "posterior_predictive_sample")
