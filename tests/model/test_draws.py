"""Draws from the posterior, decoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mumask


def test_mean_of_draws_is_that_of_all_of_them(trained):
    options = {"modality": "protein", "n_samples": 4, "indices": [5, 70, 80]}
    torch.manual_seed(0)
    draws = trained.get_normalized_expression(return_mean=False, **options)
    torch.manual_seed(0)
    mean = trained.get_normalized_expression(**options)
    assert draws.shape == (4, *mean.shape)
    np.testing.assert_allclose(draws.mean(axis=0), mean, rtol=1e-5)
    assert list(mean.columns) == list(trained.feature_names("protein"))
    assert list(mean.index) == list(trained.adata.obs_names[[5, 70, 80]])


def test_draws_lie_around_the_decoded_mean(trained):
    """As far as the posterior is wide, and nowhere without any width."""
    plain = trained.get_normalized_expression(modality="rna").to_numpy()
    draws = trained.get_normalized_expression(modality="rna", n_samples=50, return_mean=False)
    assert (draws.std(axis=0) > 0).all()
    low, high = np.quantile(draws, [0.02, 0.98], axis=0)
    assert np.mean((low < plain) & (plain < high)) > 0.95
    wide = trained.module.encoder.log_var
    before = wide.bias.detach().clone(), wide.weight.detach().clone()
    with torch.no_grad():
        wide.weight.zero_()
        wide.bias.fill_(-10.0)
        sure = trained.get_normalized_expression(modality="rna", n_samples=3, return_mean=False)
        wide.bias.copy_(before[0])
        wide.weight.copy_(before[1])
    assert sure.std(axis=0).max() < 0.1 * draws.std(axis=0).max()


def test_draws_from_several_batches(trained):
    """Each is decoded as if from all of them."""
    draws = {}
    for batch in ("cite", "asap", ["cite", "asap"]):
        torch.manual_seed(0)
        draws[str(batch)] = trained.get_normalized_expression(
            n_samples=2, return_mean=False, transform_batch=batch
        )
    one, other, both = draws.values()
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-4)
    assert not np.allclose(one, other, rtol=1e-3)


def test_cells_without_a_source_have_gaps(trained):
    lacking = np.flatnonzero(trained.adata.obs["batch"] == "solo")[:2]
    with pytest.warns(UserWarning, match="2 cells"):
        draws = trained.get_normalized_expression(
            indices=lacking, source="protein", n_samples=2, return_mean=False
        )
    assert np.isnan(draws).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_samples": 0}, "`n_samples`=0"),
        ({"n_samples": 2.5}, "`n_samples`=2.5"),
        ({"return_mean": False}, "say how many"),
    ],
)
def test_draws_that_cannot_be(trained, options, says):
    with pytest.raises(ValueError, match=says):
        trained.get_normalized_expression(**options)


def test_a_masked_autoencoder_has_nothing_to_draw_from(make_mosaic):
    mdata = make_mosaic()
    mumask.CrossAttentionMAE.setup_mudata(mdata, batch_key="batch")
    model = mumask.CrossAttentionMAE(mdata)
    model.train(max_epochs=1, enable_progress_bar=False)
    with pytest.raises(ValueError, match="no posterior to draw from"):
        model.get_normalized_expression(n_samples=3)
