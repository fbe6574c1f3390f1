"""On a CUDA device: moves, mixed precision, from one device to the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.nn import LIKELIHOODS, LinearOutputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ON_GPU = {"accelerator": "gpu", "devices": 1}


@pytest.fixture
def setup():
    return {"labels_key": "some_labels", "categorical_covariate_keys": ["site", "donor"]}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_and_all_verbs(mosaic, fit, setup, precision):
    model = fit(mosaic, setup=setup, epochs=6, train={**ON_GPU, "precision": precision})
    assert model.device.type == "cuda"
    losses = model.history["elbo_train"].to_numpy(float).ravel()
    assert losses[-1] < losses[0]
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.predict(soft=True).notna().all(axis=None)
    for adata in model.impute().mod.values():
        assert np.isfinite(adata.X).all()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_masked_autoencoder(mosaic, precision):
    CrossAttentionMAE.setup_mudata(mosaic, batch_key="batch", labels_key="some_labels")
    model = CrossAttentionMAE(mosaic)
    model.train(max_epochs=3, precision=precision, enable_progress_bar=False, **ON_GPU)
    assert model.device.type == "cuda"
    model.finetune(head_steps=20)
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.predict(soft=True).notna().all(axis=None)
    assert np.isfinite(model.get_normalized_expression(modality="protein")).all(axis=None)


def test_precision_hardly_matters(make_mosaic, fit):
    errors = []
    for precision in ("32-true", "bf16-mixed"):
        model = fit(make_mosaic(), epochs=10, train={**ON_GPU, "precision": precision})
        errors.append(model.get_reconstruction_error())
    for name in errors[0]:
        assert errors[1][name] == pytest.approx(errors[0][name], rel=0.1)


def test_a_model_from_the_gpu_works_on_the_cpu(mosaic, fit, setup, tmp_path):
    model = fit(mosaic, setup=setup, epochs=2, train=ON_GPU)
    expected = model.get_latent_representation()
    model.save(tmp_path / "model")
    other = MaskedVAE.load(tmp_path / "model", mosaic, accelerator="cpu")
    assert other.device.type == "cpu"
    found = other.get_latent_representation()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    other.to_device("cuda:0")
    np.testing.assert_allclose(other.get_latent_representation(), expected, rtol=1e-4, atol=1e-4)


def test_counts_cost_the_same_on_both_devices():
    """There in whole matrices, here cell by cell."""
    likelihood = LIKELIHOODS["nb"](300)
    x = torch.poisson(torch.rand(20, 300).pow(3) * 15).to_sparse_csr()
    results = {}
    layer = [torch.randn(20, 8), torch.randn(300, 8), torch.randn(300)]
    for device in ("cpu", "cuda"):
        likelihood.to(device)
        outputs = LinearOutputs(*(part.to(device).requires_grad_() for part in layer))
        cost = likelihood.nll(outputs, x.to(device))
        gradients = torch.autograd.grad(cost.sum(), [*outputs, likelihood.log_theta])
        results[device] = [result.detach().cpu() for result in (cost, *gradients)]
    torch.testing.assert_close(results["cuda"], results["cpu"], rtol=1e-4, atol=1e-4)
