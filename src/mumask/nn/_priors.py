"""Priors of the latent space."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


def kl_standard(mean: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """``KL(N(mean, var) || N(0, 1))`` summed over dimensions, shape ``(B,)``."""
    return 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(dim=1)


class ClusterPrior(nn.Module):
    """Cluster-conditional prior of inClust: ``p(z | cluster k) = N(m_k, 1)``.

    Parameters
    ----------
    n_clusters
        Number of clusters or classes.
    n_latent
        Latent dimensions.
    """

    def __init__(self, n_clusters: int, n_latent: int):
        super().__init__()
        self.means = nn.Parameter(torch.randn(n_clusters, n_latent) * 0.1)

    def forward(
        self, mean: torch.Tensor, log_var: torch.Tensor, probabilities: torch.Tensor
    ) -> torch.Tensor:
        """KL to every cluster's prior, weighted by the classifier's probabilities, ``(B,)``.

        Parameters
        ----------
        mean, log_var
            Corrected latent distribution, shape ``(B, n_latent)``.
        probabilities
            Output of the classifier, shape ``(B, n_clusters)``.
        """
        distance = ((mean.unsqueeze(1) - self.means) ** 2).sum(dim=2)
        variance = (log_var.exp() - log_var - 1).sum(dim=1)
        return 0.5 * ((probabilities * distance).sum(dim=1) + variance)


def kl_to_uniform(log_probabilities: torch.Tensor) -> torch.Tensor:
    """``KL(q(cluster | x) || uniform)``, shape ``(B,)``; keeps clusters from dying out."""
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1)
    return math.log(log_probabilities.shape[1]) - entropy


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy averaged over the labelled cells (code < number of classes); 0 if none."""
    known = labels < logits.shape[1]
    if not known.any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits[known], labels[known])
