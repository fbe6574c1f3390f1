"""Training plan: scvi-tools' own, with defaults for masked models."""

from __future__ import annotations

import torch
from scvi.train import TrainingPlan

from mumask.data import keys


class MaskedTrainingPlan(TrainingPlan):
    """Training plan of :class:`~mumask.MaskedVAE`.

    Differs from scvi-tools' plan in its defaults: no weight decay (it would move weights whose
    gradient is masked), Adam's usual epsilon, and a KL warm-up counted in steps, since epochs
    differ in length by orders of magnitude between data sets. The learning rate falls to zero along
    a cosine over the planned steps, which settles the latent space: results differ less between
    seeds. With ``reduce_lr_on_plateau`` scvi-tools' schedule is used instead.
    """

    def __init__(
        self,
        module,
        *,
        lr: float = 4e-3,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        n_steps_kl_warmup: int | None = 250,
        n_epochs_kl_warmup: int | None = None,
        **kwargs,
    ):
        super().__init__(
            module,
            lr=lr,
            weight_decay=weight_decay,
            eps=eps,
            n_steps_kl_warmup=n_steps_kl_warmup,
            n_epochs_kl_warmup=n_epochs_kl_warmup,
            **kwargs,
        )

    def get_optimizer_creator(self):
        """Adam in one pass over the weights (``fused``); anything else as in scvi-tools."""
        if self.optimizer_name != "Adam":
            return super().get_optimizer_creator()
        return lambda params: torch.optim.Adam(
            params, lr=self.lr, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def configure_optimizers(self):
        """Optimiser, and the schedule of its learning rate."""
        config = super().configure_optimizers()
        if not self.reduce_lr_on_plateau:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                config["optimizer"], T_max=max(1, int(self.trainer.estimated_stepping_batches))
            )
            config["lr_scheduler"] = {"scheduler": schedule, "interval": "step"}
        return config

    # A minibatch holds tensors of several lengths: Lightning cannot guess the number of cells.

    def training_step(self, batch, batch_idx):
        """One step on one minibatch."""
        self._n_cells = len(batch[keys.PRESENCE])
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        """Validation loss of one minibatch."""
        self._n_cells = len(batch[keys.PRESENCE])
        return super().validation_step(batch, batch_idx)

    def log(self, *args, **kwargs):
        """Log with the number of cells as weight."""
        super().log(*args, **{"batch_size": self._n_cells, **kwargs})
