"""Rates, means and switches of the training plans, by the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scvi.module.base import LossOutput

from mumask import CrossAttentionMAE
from mumask.train import AutoencoderTrainingPlan
from mumask.train._epoch_means import EpochMeans
from mumask.train._plan import falling_rate

TINY = {"n_embed": 16, "n_heads": 2, "n_encoder_layers": 1, "n_decoder_layers": 1, "n_latent": 8}


def rates(n_steps: float, n_seen: int, warmup: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = falling_rate(optimizer, n_steps, warmup)
    found = []
    for _ in range(n_seen):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_from_the_first_step_on_and_falls_along_a_cosine():
    cosine = 1 + np.cos(np.pi * np.arange(9) / 8)
    rise = np.array([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1])
    assert rates(8, 9, warmup=0.5) == pytest.approx(rise * cosine)
    assert rates(8, 9, warmup=0.0) == pytest.approx(cosine)
    assert rates(8, 12, warmup=0.0)[8:] == pytest.approx([0, 0, 0, 0])


def test_the_rate_stays_where_no_end_is_planned():
    assert rates(float("inf"), 4, warmup=0.5) == pytest.approx([2, 2, 2, 2])


def test_means_are_per_cell_and_the_global_part_per_minibatch():
    means = EpochMeans()
    for n_cells, level in ((6, 1.0), (2, 5.0)):
        each = torch.full((n_cells,), level)
        means.add(
            LossOutput(
                loss=torch.tensor(level),
                reconstruction_loss=each,
                kl_local=each / 2,
                kl_global=torch.tensor(level),
                extra_metrics={"share": torch.tensor(level)},
            )
        )
    found = means.take(lambda numbers: numbers)
    per_cell = (6 * 1 + 2 * 5) / 8
    assert found["loss"] == found["reconstruction_loss"] == found["share"] == per_cell
    assert found["kl_local"] == per_cell / 2
    assert found["elbo"] == per_cell * 1.5
    assert found["kl_global"] == pytest.approx((1 + 5) / 2)
    assert means.take(lambda numbers: numbers) == {}


def test_an_autoencoder_warms_up_and_hides_nothing_after_validation(mosaic):
    seen = []

    class Plan(AutoencoderTrainingPlan):
        def training_step(self, batch, batch_idx):
            seen.append((self.module.validating, self.optimizers().param_groups[0]["lr"]))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            seen.append((self.module.validating, None))

    CrossAttentionMAE.setup_mudata(mosaic, batch_key="batch")
    model = CrossAttentionMAE(mosaic, **TINY)
    model._training_plan_cls = Plan
    model.train(
        2,
        batch_size=30,
        train_size=0.8,
        check_val_every_n_epoch=1,
        plan_kwargs={"warmup": 0.5, "lr": 0.01},
        enable_progress_bar=False,
    )
    assert not any(validating for validating, _ in seen)
    found = [rate for _, rate in seen if rate is not None]
    n = len(found)
    assert n == model.trainer.global_step and n + 2 <= len(seen)
    steps = np.arange(n)
    rise = np.minimum(1, (steps + 1) / (n / 2))
    assert found == pytest.approx(rise * 0.005 * (1 + np.cos(np.pi * steps / n)))
