"""Small blocks shared by the networks."""

from __future__ import annotations

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
