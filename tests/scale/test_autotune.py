"""scvi.autotune tries settings on a MuData mosaic."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch

from mumask import MaskedVAE


@pytest.mark.slow
def test_autotune_on_a_mosaic(make_mosaic, tmp_path, monkeypatch):
    """Ray's processes read the MuData from a file and repeat the setup."""
    ray = pytest.importorskip("ray")
    from ray import tune
    from scvi.autotune import run_autotune

    monkeypatch.setattr(scvi.settings, "logging_dir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    mosaic = make_mosaic()
    for name in mosaic.mod:  # the file that scvi-tools writes holds no stale obsmap
        mosaic.obsmap[name] = np.zeros_like(mosaic.obsmap[name])
    mosaic.update()
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", labels_key="some_labels")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        found = run_autotune(
            MaskedVAE,
            mosaic,
            metrics="elbo_validation",
            mode="min",
            search_space={
                "model_params": {"n_hidden": tune.choice([8, 16]), "n_latent": 4},
                "train_params": {"max_epochs": 2, "batch_size": 32, "accelerator": "cpu"},
            },
            num_samples=2,
            searcher="random",
            scheduler="fifo",
            seed=0,
            resources={"cpu": 1},
            ignore_reinit_error=True,
            logging_dir=str(tmp_path),
        )
    finally:
        ray.shutdown()
    assert not found.result_grid.errors
    scores = found.result_grid.get_dataframe()["elbo_validation"]
    assert len(scores) == 2
    assert np.isfinite(scores).all()


def test_latent_vectors_for_scib_metrics(mosaic, fit):
    """Autotune's callback for scib-metrics asks the plan for all latent vectors of the epoch."""
    from scvi.train._callbacks import ScibCallback

    setup = {"labels_key": "some_labels"}
    options = {"callbacks": [ScibCallback()], "train_size": 0.8, "check_val_every_n_epoch": 1}
    model = fit(mosaic, setup=setup, epochs=1, train=options)
    plan = model.trainer.lightning_module
    cells = plan._training_epoch_outputs
    assert cells["z"].shape == (72, 4)
    assert cells["batch"].shape == cells["labels"].shape == (72,)
    assert plan._validation_epoch_outputs["z"].shape == (18, 4)
    assert torch.isfinite(cells["z"]).all()
