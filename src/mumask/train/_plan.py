"""Training plan: scvi-tools' own, with defaults for masked models."""

from __future__ import annotations

import inspect
import math

import torch
from scvi.train import TrainingPlan

from mumask.data import keys

from ._epoch_means import EpochMeans

LARGEST_KEPT = 32 * 2**20 - 2**16  # bytes


def keep_freed_memory() -> None:
    """Let the allocator of a CPU keep what a step frees, for the next one.

    glibc gives large blocks back to the system, which then clears every page of them anew: in each
    step for the gradients of some ten thousand peaks. Its threshold rises to the size of a block
    that is freed, up to 32 MiB. Other allocators take no notice.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)


def falling_rate(
    optimizer: torch.optim.Optimizer, n_steps: float, warmup: float = 0.0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Schedule of a learning rate that rises over a share of the steps and falls along a cosine.

    It belongs to the steps that are planned now, also where a training goes on from a checkpoint.
    Where no number of them is planned (``max_epochs=-1``) the rate stays as it is.
    """
    n_rising = warmup * n_steps if math.isfinite(n_steps) else 0.0

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1.0, n_rising))
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1.0, n_steps))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class MaskedTrainingPlan(TrainingPlan):
    """Training plan of :class:`~mumask.MaskedVAE`.

    Differs from scvi-tools' plan in its defaults: no weight decay (it would move weights whose
    gradient is masked), Adam's usual epsilon, and a KL warm-up counted in steps, since epochs
    differ in length by orders of magnitude between data sets. The learning rate falls to zero along
    a cosine over the planned steps, which settles the latent space: results differ less between
    seeds. With ``reduce_lr_on_plateau`` scvi-tools' schedule is used instead. The history has the
    columns of scvi-tools, written once per epoch.

    Parameters
    ----------
    module
        Module to train.
    lr, weight_decay, eps, n_steps_kl_warmup, n_epochs_kl_warmup, **kwargs
        As in :class:`scvi.train.TrainingPlan`.
    loadings_prior
        Keep to the prior that the module has of the decoder's weights, if any.
    """

    # Means that are not written: a stage may have no such loss.
    _left_out: frozenset[str] = frozenset()

    def __init__(
        self,
        module,
        *,
        lr: float = 4e-3,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        n_steps_kl_warmup: int | None = 250,
        n_epochs_kl_warmup: int | None = None,
        loadings_prior: bool = True,
        **kwargs,
    ):
        known = {
            *inspect.signature(TrainingPlan).parameters,
            *inspect.signature(module.loss).parameters,
        }
        if strange := sorted(set(kwargs) - known):
            raise TypeError(
                f"`plan_kwargs`: {type(self).__name__} does not know {strange}. The learning rate "
                "is `lr`; see scvi.train.TrainingPlan for the others."
            )
        super().__init__(
            module,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            n_steps_kl_warmup=n_steps_kl_warmup,
            n_epochs_kl_warmup=n_epochs_kl_warmup,
            **kwargs,
        )
        self.loadings_prior, self._fused = loadings_prior, True
        self._means = {"train": EpochMeans(), "validation": EpochMeans()}

    def get_optimizer_creator(self):
        """Adam in one pass over the weights (``fused``); anything else as in scvi-tools."""
        if self.optimizer_name != "Adam":
            return super().get_optimizer_creator()
        return lambda params: torch.optim.Adam(
            self._groups(list(params)), lr=self.lr, eps=self.eps, fused=self._fused
        )

    def _penalties(self) -> dict[torch.nn.Parameter, float]:
        """L2 penalty of weights with a normal prior, for a loss that is a mean over cells."""
        priors = self.module.loading_precisions() if self.loadings_prior else {}
        return {weight: precision / self.n_obs_training for weight, precision in priors.items()}

    def _groups(self, params: list[torch.nn.Parameter]) -> list[dict]:
        """Weights with their L2 penalties: Adam adds the gradient of a normal prior on its own."""
        penalties, groups = self._penalties(), {}
        for parameter in params:
            decay = self.weight_decay + penalties.get(parameter, 0.0)
            groups.setdefault(decay, []).append(parameter)
        return [{"params": members, "weight_decay": d} for d, members in groups.items()]

    def configure_optimizers(self):
        """Optimiser, and the schedule of its learning rate."""
        # In mixed precision Lightning cannot clip the gradients of a fused optimiser.
        clipped = self.trainer.gradient_clip_val and "mixed" in str(self.trainer.precision)
        self._fused = not clipped
        config = super().configure_optimizers()
        if not self.reduce_lr_on_plateau:
            n_steps = self.trainer.estimated_stepping_batches
            schedule = falling_rate(config["optimizer"], n_steps)
            config["lr_scheduler"] = {"scheduler": schedule, "interval": "step"}
        return config

    def on_fit_start(self):
        """See once who listens, and prepare the allocator."""
        keep_freed_memory()
        names = [type(callback).__name__ for callback in self.trainer.callbacks]
        self._is_tuned_by_scib = any("Scib" in name for name in names)

    def training_step(self, batch, batch_idx):
        """One step on one minibatch."""
        loss = self._losses(batch, "train")
        if self.optimizer_name != "Adam":
            loss = loss + sum(d / 2 * w.square().sum() for w, d in self._penalties().items())
        if self.trainer.is_last_batch:  # in time for the progress bar
            self._log_means("train")
        return loss

    def validation_step(self, batch, batch_idx):
        """Validation loss of one minibatch."""
        self._losses(batch, "validation")

    def on_train_epoch_end(self):
        """What an epoch that was cut short has to say."""
        self._log_means("train")

    def on_validation_epoch_end(self):
        """Write the means of the epoch, for early stopping and checkpoints."""
        self._log_means("validation")

    def _losses(self, batch, mode: str) -> torch.Tensor:
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
        out, _, losses = self.forward(batch, loss_kwargs=self.loss_kwargs)
        self._means[mode].add(losses)
        if self._is_tuned_by_scib:
            # scvi.autotune scores latent vectors of the epoch; without labels there is one type
            labels = batch.get(keys.LABELS, torch.zeros_like(batch[keys.BATCH]))
            cells = {"z": out["corrected"], "batch": batch[keys.BATCH], "labels": labels}
            self.prepare_scib_autotune(cells, "training" if mode == "train" else mode)
        return losses.loss

    def _log_means(self, mode: str) -> None:
        sum_up = lambda numbers: self.trainer.strategy.reduce(numbers, reduce_op="sum")
        means = self._means[mode].take(sum_up)
        if not means:
            return
        once = {"on_step": False, "on_epoch": True, "batch_size": 1}
        once["sync_dist"] = self.trainer.world_size > 1  # Lightning asks for it
        self.log(f"{mode}_loss", means.pop("loss"), prog_bar=mode == "train", **once)
        named = {f"{name}_{mode}": means[name] for name in means if name not in self._left_out}
        self.log_dict(named, **once)
        if mode == "train" and "kl_weight" in self.loss_kwargs:
            self.log("kl_weight", self.loss_kwargs["kl_weight"], **once)
