"""Small blocks shared by the networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def normed(n_hidden: int, activation: str, dropout: float, layer_norm: bool) -> nn.Sequential:
    """What follows a linear layer: normalisation over a cell's own units, activation, dropout.

    The normalisation is never across cells: a cell's result must not depend on which other cells,
    with which modalities, share its minibatch.
    """
    parts: list[nn.Module] = [nn.LayerNorm(n_hidden)] if layer_norm else []
    parts.append(ACTIVATIONS[activation]())
    if dropout > 0:
        parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts)


def hidden_layers(
    n_layers: int, n_hidden: int, activation: str, dropout: float, layer_norm: bool
) -> nn.Sequential:
    """`n_layers` further layers of the same width."""
    layers: list[nn.Module] = []
    for _ in range(n_layers):
        layers += [
            nn.Linear(n_hidden, n_hidden),
            normed(n_hidden, activation, dropout, layer_norm),
        ]
    return nn.Sequential(*layers)


class Covariates(nn.Module):
    """Auxiliary information as a vector: ``E = W_E * input2`` (embedding layer of the paper).

    One embedding per categorical covariate, batch first, and one linear map for the continuous
    ones; their sum is the vector. An embedding per covariate can grow by rows of its own when a
    query brings new categories.

    Parameters
    ----------
    n_categories
        Number of categories of each categorical covariate.
    n_continuous
        Number of continuous covariates.
    n_out
        Length of the vector.
    """

    def __init__(self, n_categories: Sequence[int], n_continuous: int, n_out: int):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, n_out) for n in n_categories)
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.1)
        self.linear = nn.Linear(n_continuous, n_out, bias=False) if n_continuous else None

    def forward(self, categories: torch.Tensor, continuous: torch.Tensor | None) -> torch.Tensor:
        """Sum of the parts, shape ``(B, n_out)``.

        Parameters
        ----------
        categories
            Codes of shape ``(B, n_categorical)``.
        continuous
            Values of shape ``(B, n_continuous)``, or None.
        """
        total = sum(emb(codes) for emb, codes in zip(self.embeddings, categories.T, strict=True))
        return total if self.linear is None else total + self.linear(continuous)
