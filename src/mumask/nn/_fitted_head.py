"""Label head that is fitted to a finished latent space."""

from __future__ import annotations

import torch
from torch import nn

from ._label_head import LabelHead, with_sources

# Nobody clusters what this head is made of; probabilities are all that is asked of it.
ONLY_LABELS = {"smoothing": 0.05, "consistency": 1.0, "compactness": 0.0}


class FittedHead(nn.Module):
    """``LabelHead`` on centred and scaled latent vectors.

    Its weights are fitted after the model's training and take no part in it.

    Parameters
    ----------
    n_latent, n_modalities, n_classes
        Latent dimensions, modalities, classes.
    """

    def __init__(self, n_latent: int, n_modalities: int, n_classes: int):
        super().__init__()
        self.head = LabelHead(n_latent + n_modalities, n_classes, **ONLY_LABELS)
        self.head.requires_grad_(False)
        self.register_buffer("center", torch.zeros(n_latent))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, z: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, n_classes)`` of latent vectors ``(n, n_latent)`` and their `source`."""
        return self.head(with_sources((z - self.center) / self.spread, source))

    def fit(
        self,
        z: torch.Tensor,
        source: torch.Tensor,
        labels: torch.Tensor,
        n_steps: int,
        repeats: torch.Tensor | None = None,
    ) -> None:
        """Fit to latent vectors; without any labelled one nothing is fitted.

        Parameters
        ----------
        z, source
            Latent vectors ``(n, n_latent)``; bool ``(n, n_modalities)``, what they come from.
        labels
            Codes ``(n,)``; n_classes = unlabelled.
        n_steps, repeats
            Of :meth:`mumask.nn.LabelHead.fit`.
        """
        self.fitted.fill_(False)  # an earlier fit does not belong to these latent vectors
        if not (labels < self.head.n_classes).any():
            return
        self.center.copy_(z.mean(dim=0))
        # One factor for all dimensions: they keep the proportions that the model gave them.
        self.spread.copy_(z.var(dim=0).mean().sqrt().clamp(min=1e-6))
        self.head.reset()
        values = with_sources((z - self.center) / self.spread, source)
        self.head.fit(values, labels, n_steps, repeats)
        self.head.eval().requires_grad_(False)
        self.fitted.fill_(True)
