"""Training plan: scvi-tools' own, with defaults for masked models."""

from __future__ import annotations

from scvi.train import TrainingPlan


class MaskedTrainingPlan(TrainingPlan):
    """Training plan of :class:`~mumask.MaskedVAE`.

    Differs from scvi-tools' plan in its defaults: no weight decay (it would move weights whose
    gradient is masked), Adam's usual epsilon, and a KL warm-up counted in steps, since epochs
    differ in length by orders of magnitude between data sets.
    """

    def __init__(
        self,
        module,
        *,
        lr: float = 2e-3,
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
