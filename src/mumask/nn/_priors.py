"""Priors of the latent space."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def kl_standard(mean: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """``KL(N(mean, var) || N(0, 1))`` summed over dimensions, shape ``(B,)``."""
    return 0.5 * (mean**2 + log_var.exp() - log_var - 1).sum(dim=1)


class ClusterPrior(nn.Module):
    """Prior of cells in clusters or classes: ``p(k) = w_k`` and ``p(z | k) = N(m_k, s_k^2 I)``.

    With equal shares ``w_k`` and unit variances this is the prior of inClust. It cuts a large cell
    type into clusters of average size; with shares and variances learned, clusters differ in size.

    Parameters
    ----------
    n_clusters
        Number of clusters or classes.
    n_latent
        Latent dimensions.
    learned
        Learn shares and variances.
    """

    def __init__(self, n_clusters: int, n_latent: int, learned: bool = False):
        super().__init__()
        self.means = nn.Parameter(torch.randn(n_clusters, n_latent) * 0.1)
        for name in ("log_share", "log_var"):
            if learned:
                self.register_parameter(name, nn.Parameter(torch.zeros(n_clusters)))
            else:
                self.register_buffer(name, torch.zeros(n_clusters))

    def forward(
        self, mean: torch.Tensor, log_var: torch.Tensor, log_probabilities: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """KL of `z` to the clusters' priors, and of the clusters to their shares, each ``(B,)``.

        Parameters
        ----------
        mean, log_var
            Corrected latent distribution, shape ``(B, n_latent)``.
        log_probabilities
            Output of the classifier, logarithms, shape ``(B, n_clusters)``.
        """
        own = self.log_var.clamp(-3.0, 3.0)  # a cluster of one point would gain without end
        squares = ((mean.unsqueeze(1) - self.means) ** 2).sum(dim=2)
        squares = squares + log_var.exp().sum(dim=1, keepdim=True)
        to_each = squares * (-own).exp() + (own - 1) * mean.shape[1]
        probabilities = log_probabilities.exp()
        kl = 0.5 * ((probabilities * to_each).sum(dim=1) - log_var.sum(dim=1))
        beyond = log_probabilities - F.log_softmax(self.log_share, dim=0)
        return kl, (probabilities * beyond).sum(dim=1)


def label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy averaged over the labelled cells (code < number of classes); 0 if none."""
    known = labels < logits.shape[1]
    if not known.any():
        return logits.sum() * 0.0
    return F.cross_entropy(logits[known], labels[known])
