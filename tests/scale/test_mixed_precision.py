"""bf16 on the CPU goes the way that it goes on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "gaussian"])
def test_training_in_bf16(mosaic, fit, likelihood):
    setup = {"likelihoods": dict.fromkeys(["rna", "protein"], likelihood)}
    model = fit(mosaic, setup=setup, epochs=6, train={"precision": "bf16-mixed"})
    losses = model.history["elbo_train"].to_numpy(float).ravel()
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in model.module.parameters())
    assert np.isfinite(model.get_latent_representation()).all()


def test_precision_hardly_matters(make_mosaic, fit):
    errors = []
    for precision in ("32-true", "bf16-mixed"):
        model = fit(make_mosaic(), epochs=10, train={"precision": precision})
        errors.append(model.get_reconstruction_error())
    for name in errors[0]:
        assert errors[1][name] == pytest.approx(errors[0][name], rel=0.1)
