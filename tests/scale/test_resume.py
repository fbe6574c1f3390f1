"""A training that was killed goes on from its last checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from scvi.train import SaveCheckpoint

from mumask import MaskedVAE

EPOCHS = 12


class Killed(Exception):
    """Stands for a machine that goes down."""


class KillAfter(Callback):
    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def on_train_epoch_start(self, trainer, plan):
        if trainer.current_epoch == self.n_epochs:
            raise Killed


def new_model(mosaic):
    scvi.settings.seed = 1
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", labels_key="some_labels")
    return MaskedVAE(mosaic, n_latent=4, n_hidden=16)


def train(model, **options):
    options = {"max_epochs": EPOCHS, "batch_size": 16, "accelerator": "cpu", **options}
    model.train(enable_progress_bar=False, **options)
    return model


def saver(folder):
    return ModelCheckpoint(dirpath=folder, filename="last", save_on_train_epoch_end=True)


@pytest.fixture
def cells(make_mosaic):
    return make_mosaic(n=40)


@pytest.mark.parametrize("monitored", [True, False])
def test_training_goes_on_after_a_kill(cells, tmp_path, monitored, monkeypatch):
    monkeypatch.setattr(scvi.settings, "logging_dir", str(tmp_path / "logs"))
    whole = train(new_model(cells))

    callbacks = [saver(tmp_path), KillAfter(EPOCHS // 2)]
    if not monitored:  # scvi-tools adds one that looks at validation cells
        callbacks.append(SaveCheckpoint(dirpath=str(tmp_path / "best"), monitor="train_loss"))
    with pytest.raises(Killed):
        train(new_model(cells), enable_checkpointing=True, callbacks=callbacks)
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["epoch"] == EPOCHS // 2 - 1

    model = new_model(cells)  # as in a new process
    train(model, ckpt_path=str(tmp_path / "last.ckpt"))
    assert model.is_trained_
    assert model.trainer.global_step == whole.trainer.global_step
    assert list(model.history["elbo_train"].index) == list(range(EPOCHS // 2, EPOCHS))
    schedule = model.trainer.lr_scheduler_configs[0].scheduler
    assert schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-6)
    errors = [m.get_reconstruction_error() for m in (whole, model)]
    untrained = new_model(cells)
    untrained.is_trained_ = True
    start = untrained.get_reconstruction_error()
    for name in start:
        gained = start[name] - errors[0][name]
        assert abs(errors[1][name] - errors[0][name]) < 0.25 * gained, name


def test_a_checkpoint_is_a_model(cells, tmp_path):
    """scvi-tools' callback saves models that load as any other."""
    callbacks = [SaveCheckpoint(dirpath=str(tmp_path), monitor="elbo_validation", save_top_k=1)]
    model = new_model(cells)
    train(model, max_epochs=4, enable_checkpointing=True, callbacks=callbacks)
    assert len(model.validation_indices)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    saved = MaskedVAE.load(folder, cells)
    assert np.isfinite(saved.get_latent_representation()).all()
    assert saved.is_trained_


def test_more_epochs_are_planned_than_before(cells, tmp_path, monkeypatch):
    """The learning rate falls to zero over the steps that are planned now."""
    monkeypatch.setattr(scvi.settings, "logging_dir", str(tmp_path / "logs"))
    rates = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, plan, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    train(new_model(cells), max_epochs=4, enable_checkpointing=True, callbacks=[saver(tmp_path)])
    model = new_model(cells)
    train(model, max_epochs=8, ckpt_path=str(tmp_path / "last.ckpt"), callbacks=[Watch()])
    n_steps = model.trainer.global_step
    steps = np.arange(n_steps - len(rates), n_steps)
    assert len(rates) == n_steps // 2
    expected = 4e-3 * 0.5 * (1 + np.cos(np.pi * steps / n_steps))
    np.testing.assert_allclose(rates[1:], expected[1:], rtol=1e-6)
    assert rates[-1] < 1e-4
