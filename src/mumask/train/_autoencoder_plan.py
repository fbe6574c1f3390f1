"""Training plan of the masked autoencoder: AdamW, warm-up, cosine; masks in validation too."""

from __future__ import annotations

import torch

from ._plan import MaskedTrainingPlan, falling_rate


class AutoencoderTrainingPlan(MaskedTrainingPlan):
    """Training plan of :class:`~mumask.CrossAttentionMAE`, for every stage.

    The optimiser is that of scMMAE (Methods): AdamW, linear warm-up, cosine decay to zero.

    Parameters
    ----------
    module
        The module, already in its stage.
    lr, weight_decay, betas
        Of AdamW. In fine-tuning `lr` is that of the head; the encoders learn more slowly.
    warmup
        Share of the planned steps over which the learning rate rises.
    **kwargs
        Of :class:`scvi.train.TrainingPlan`, but no other optimiser or schedule.
    """

    def __init__(
        self,
        module,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.98),
        warmup: float = 0.05,
        **kwargs,
    ):
        if kwargs.pop("optimizer", "AdamW") != "AdamW" or kwargs.get("reduce_lr_on_plateau"):
            raise ValueError(
                "`plan_kwargs`: CrossAttentionMAE is trained with AdamW and its own schedule. Leave out "
                "`optimizer` and `reduce_lr_on_plateau`; set `lr`, `weight_decay`, `betas`, `warmup`."
            )
        super().__init__(module, lr=lr, weight_decay=weight_decay, **kwargs)
        self.betas, self.warmup = tuple(betas), warmup
        if module.stage == "finetune":  # the loss is that of the labels alone
            self._left_out = frozenset({"elbo", "reconstruction_loss", "kl_local", "kl_global"})

    def configure_optimizers(self):
        """AdamW over what the stage trains, and its schedule by step."""
        if self.module.stage == "finetune":
            groups = self.module.parameter_groups(self.lr)
        else:
            groups = [{"params": [p for p in self.module.parameters() if p.requires_grad]}]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
        n_steps = self.trainer.estimated_stepping_batches
        schedule = falling_rate(optimizer, n_steps, self.warmup)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def validation_step(self, batch, batch_idx):
        """Validation loss of one minibatch: without masks nothing would be left to predict."""
        self.module.validating = True
        try:
            return super().validation_step(batch, batch_idx)
        finally:
            self.module.validating = False
