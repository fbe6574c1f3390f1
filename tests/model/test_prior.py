"""The prior of the decoder: features that say nothing stay at their mean."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import LambdaCallback
from mudata import MuData
from scipy import sparse

from mumask import MaskedVAE
from mumask.train import MaskedTrainingPlan

N_CELLS, N_GENES, N_PEAKS = 500, 60, 2000
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def silent_peaks():
    """Genes that tell three types, and sparse peaks that tell nothing."""
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=N_CELLS)
    rna = rng.poisson(300 * rng.dirichlet(np.full(N_GENES, 0.3), size=3)[codes])
    shares = rng.dirichlet(np.full(N_PEAKS, 0.5))
    atac = rng.poisson(30 * shares, size=(N_CELLS, N_PEAKS)) > 0
    atac[~atac.any(1), 0] = True
    mods = {"rna": rna, "atac": atac}
    return MuData(
        {
            name: AnnData(
                sparse.csr_matrix(values.astype(np.float32)),
                obs=pd.DataFrame(index=[f"c{i}" for i in range(N_CELLS)]),
                var=pd.DataFrame(index=[f"{name}{i}" for i in range(values.shape[1])]),
            )
            for name, values in mods.items()
        }
    )


def _held_out_error(mdata, **options) -> tuple[float, float]:
    """Error of the peaks of cells that took no part, and with all cells at the mean of the others."""
    scvi.settings.seed = 0
    MaskedVAE.setup_mudata(mdata)
    # Hidden layers: a linear decoder learns less by heart, with or without the prior.
    model = MaskedVAE(mdata, n_hidden=64, n_latent=8, linear_decoder=False, **options)
    model.train(120, train_size=0.8, **QUIET)
    cells = model.validation_indices
    found = model.get_reconstruction_error(indices=cells)["atac"]
    mean = mdata["atac"][mdata.obs_names[model.train_indices]].X.mean(0) + 1 / N_CELLS
    with torch.no_grad():
        model.module.decoder.last["atac"].weight.zero_()
        model.module.decoder.last["atac"].bias.copy_(torch.as_tensor(np.log(mean)).ravel())
    return found, model.get_reconstruction_error(indices=cells)["atac"]


def test_peaks_without_information_are_not_learned_by_heart(silent_peaks):
    with_prior, mean = _held_out_error(silent_peaks)
    without, _ = _held_out_error(silent_peaks, loadings_sd=math.inf)
    assert with_prior < mean + 2
    assert without > mean + 5


def test_one_step_is_that_of_the_penalised_loss(mosaic):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    model = MaskedVAE(mosaic, n_latent=4, n_hidden=16, loadings_sd=0.5, dropout=0.0)
    ours, other = model.module, deepcopy(model.module)
    (tensors,) = model._make_data_loader(model.adata, batch_size=mosaic.n_obs)
    plan = MaskedTrainingPlan(ours, lr=0.01)
    plan.n_obs_training = 40
    optimizers = [
        plan.get_optimizer_creator()(ours.parameters()),
        torch.optim.Adam(other.parameters(), lr=0.01),
    ]
    for module, optimizer in zip((ours, other), optimizers, strict=True):
        module.train()
        torch.manual_seed(0)
        loss = module(tensors)[2].loss
        if module is other:
            for name in ("rna", "protein", "atac"):
                loss = loss + 16 / 0.5**2 / 40 * module.decoder.last[name].weight.square().sum() / 2
        loss.backward()
        optimizer.step()
    for (name, one), two in zip(ours.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-5, msg=name)


def test_outputs_start_at_the_profile(mosaic):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    module = MaskedVAE(mosaic, loadings_sd=1.0).module
    for name, transform in module.transforms.items():
        seen = transform.profile > 0
        start = module.decoder.last[name].bias[seen].softmax(0)
        torch.testing.assert_close(start, transform.profile[seen])


def test_no_prior_on_a_query_nor_in_the_preset(mosaic, make_mosaic, fit):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    assert MaskedVAE(mosaic, preset="inclust+").module.loading_precisions() == {}
    seen = []
    spy = LambdaCallback(on_fit_start=lambda _, plan: seen.append(plan.loadings_prior))
    model = fit(mosaic, epochs=1, train={"callbacks": [spy]})
    query = MaskedVAE.load_query_data(make_mosaic(seed=1), model, unfrozen=["decoder"])
    query.train(1, callbacks=[spy], **QUIET)
    assert seen == [True, False]


def test_no_prior_between_assays_unless_asked_for(mosaic):
    """Batches with panels of their own."""
    panel = {"protein": {"cite": [f"protein{i}" for i in range(2, 6)]}}
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", panels=panel)
    assert MaskedVAE(mosaic).module.loading_precisions() == {}
    assert len(MaskedVAE(mosaic, loadings_sd=2.0).module.loading_precisions()) == 3
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    assert len(MaskedVAE(mosaic).module.loading_precisions()) == 3


def test_another_optimizer_keeps_to_the_prior(mosaic, fit):
    """Adam by another name gets its penalties with the loss."""
    adam = partial(torch.optim.Adam, lr=4e-3)
    custom = {"plan_kwargs": {"optimizer": "Custom", "optimizer_creator": adam}}

    def weights(loadings_sd, **train):
        scvi.settings.seed = 0
        model = fit(mosaic, epochs=3, train=train, loadings_sd=loadings_sd)
        return model.module.decoder.last["atac"].weight

    strict = weights(0.1)
    torch.testing.assert_close(weights(0.1, **custom), strict, atol=1e-3, rtol=0)
    assert (weights(math.inf, **custom) - strict).abs().max() > 5e-3


@pytest.mark.parametrize(
    ("setup", "options", "n_latent"),
    [
        ({}, {}, 15),
        ({"labels_key": "some_labels"}, {}, 20),
        ({}, {"n_latent": 7}, 7),
        ({}, {"preset": "inclust+"}, 50),
    ],
)
def test_latent_dimensions(mosaic, setup, options, n_latent):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", **setup)
    assert MaskedVAE(mosaic, **options).module.n_latent == n_latent


def test_factors_of_real_values_have_no_prior_either(mosaic, monkeypatch):
    monkeypatch.setattr("mumask.nn._mosaic_coder.WIDE", 0)
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", likelihoods={"rna": "gaussian"})
    module = MaskedVAE(mosaic, n_hidden=16, n_factors=4, loadings_sd=2.0).module
    found = module.loading_precisions()
    assert len(found) == 4
    for name in ("protein", "atac"):
        assert found[module.decoder.last[name].weight] == 4 / 2.0**2
        assert found[module.decoder.factors[name].weight] == 16
