"""Depth is given, in counts and in binary values, so that the latent space need not hold it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from mudata import MuData
from sklearn.linear_model import LinearRegression

from mumask import MaskedVAE

N_CELLS, N_PEAKS, N_TYPES = 600, 300, 3


@pytest.fixture
def types_at_all_depths():
    """Three types; the depth of a cell has nothing to do with its type."""
    rng = np.random.default_rng(0)
    codes = rng.integers(N_TYPES, size=N_CELLS)
    shares = rng.dirichlet(np.full(N_PEAKS, 0.3), size=N_TYPES)
    depth = np.exp(rng.normal(4, 0.8, size=N_CELLS))
    counts = rng.poisson(shares[codes] * depth[:, None])
    counts[counts.sum(1) == 0, 0] = 1
    obs = pd.DataFrame({"type": pd.Categorical(codes.astype(str))}, index=map(str, range(N_CELLS)))
    return counts.astype(np.float32), obs


@pytest.mark.parametrize("linear_decoder", [False, True])
@pytest.mark.parametrize("likelihood", ["nb", "bernoulli"])
def test_depth_is_not_in_the_latent_space(types_at_all_depths, likelihood, linear_decoder):
    counts, obs = types_at_all_depths
    values = counts if likelihood == "nb" else (counts > 0).astype(np.float32)
    scvi.settings.seed = 0
    mdata = MuData({"atac": AnnData(values, obs=obs)})
    MaskedVAE.setup_mudata(mdata, likelihoods={"atac": likelihood})
    model = MaskedVAE(mdata, n_hidden=32, n_latent=8, linear_decoder=linear_decoder)
    model.train(60, train_size=1.0, enable_progress_bar=False, accelerator="cpu")
    latent = model.get_latent_representation()

    def share(covariates):
        """Of the variance of the latent space, what the covariates explain."""
        fitted = LinearRegression().fit(covariates, latent).predict(covariates)
        return fitted.var(axis=0).sum() / latent.var(axis=0).sum()

    # A probability per peak and no depth puts some 0.17 of the variance of binary data there.
    # A linear decoder draws out what a cell's own counts say beyond its type, noise here.
    assert share(pd.get_dummies(obs["type"]).to_numpy(float)) > (0.85 if linear_decoder else 0.9)
    assert share(np.log(values.sum(1))[:, None]) < 0.03

    # the same cells at three times the average depth: more of every peak, by the same factor at rare ones
    average = model.get_normalized_expression()
    deep = model.get_normalized_expression(library_size=3 * float(values.sum(1).mean()))
    rare = average.to_numpy() < 0.02
    ratio = deep.to_numpy()[rare] / average.to_numpy()[rare]
    np.testing.assert_allclose(ratio, 3, atol=0.1)
