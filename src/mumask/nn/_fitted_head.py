"""Label head that is fitted to a finished latent space."""

from __future__ import annotations

import torch
from torch import nn

from ._label_head import LabelHead


class FittedHead(nn.Module):
    """``LabelHead`` on centred and scaled latent vectors.

    Its weights are fitted after the model's training and take no part in it.

    Parameters
    ----------
    n_latent, n_classes
        Latent dimensions, classes.
    """

    def __init__(self, n_latent: int, n_classes: int):
        super().__init__()
        self.head = LabelHead(n_latent, n_classes)
        self.head.requires_grad_(False)
        self.register_buffer("center", torch.zeros(n_latent))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, n_classes)`` of latent vectors ``(n, n_latent)``."""
        return self.head((z - self.center) / self.spread)

    def fit(self, z: torch.Tensor, labels: torch.Tensor, n_steps: int) -> None:
        """Fit to latent vectors ``(n, n_latent)``; code n_classes = unlabelled.

        Without any labelled cell nothing is fitted.
        """
        n_classes = self.head.network[-1].out_features
        if not (labels < n_classes).any():
            return
        self.center.copy_(z.mean(dim=0))
        # One factor for all dimensions: they keep the proportions that the model gave them.
        self.spread.copy_(z.var(dim=0).mean().sqrt().clamp(min=1e-6))
        self.head.reset()
        values = (z - self.center) / self.spread
        self.head.fit(values, labels, torch.ones(n_classes, device=z.device), n_steps)
        self.head.eval().requires_grad_(False)
        self.fitted.fill_(True)
