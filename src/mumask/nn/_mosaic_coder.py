"""Encoder and decoder for any subset of modalities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from ._layers import hidden_layers, normed
from ._linear_outputs import LinearOutputs
from ._values import FirstLayer

# Outputs of a modality up to which its last layer costs little.
WIDE = 1000


class MosaicEncoder(nn.Module):
    """From the visible values of any subset of modalities to the parameters of ``q(z | x)``.

    Steps 2 and 3 of the pseudocode. The paper stacks all modalities in one input and masks what
    is absent; here every modality has its part of the first layer, computed only for the cells
    that have it, and the parts are added. Both give the same sums.

    With `layer_norm` every part is normalised over its units before. A modality of thousands of
    features otherwise grows parts that are larger than those of a dozen proteins by more than an
    order of magnitude, and a cell that has both is encoded from the one alone, which serves cells
    of the training but fails new ones.

    Parameters
    ----------
    n_features
        Number of features by modality.
    n_hidden, n_latent, n_layers
        Units per hidden layer, latent dimensions, hidden layers behind the first.
    activation, dropout, layer_norm
        See ``normed`` in ``nn/_layers.py``.
    average
        Divide the sum by the number of source modalities of a cell.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        n_hidden: int,
        n_latent: int,
        n_layers: int,
        activation: str,
        dropout: float,
        layer_norm: bool,
        average: bool,
    ):
        super().__init__()
        self.n_hidden, self.average, self.norm_parts = n_hidden, average, layer_norm
        self.first = nn.ModuleDict({m: FirstLayer(n, n_hidden) for m, n in n_features.items()})
        self.after_first = normed(n_hidden, activation, dropout, layer_norm)
        self.hidden = hidden_layers(n_layers, n_hidden, activation, dropout, layer_norm)
        self.mean = nn.Linear(n_hidden, n_latent)
        self.log_var = nn.Linear(n_hidden, n_latent)

    def forward(
        self,
        inputs: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]],
        presence: torch.Tensor,
        source: torch.Tensor,
        condition: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a minibatch.

        Parameters
        ----------
        inputs
            By modality, values and offset (:class:`InputTransform`) of the cells that have it,
            ``(n_m, n_features)``.
        presence, source
            Which modalities a cell has, and which it is encoded from; ``(B, M)``.
        condition
            Vector of the covariates added to the first layer, shape ``(B, n_hidden)``, or None.

        Returns
        -------
        Mean and log-variance of shape ``(B, n_latent)``.
        """
        summed = torch.zeros(len(presence), self.n_hidden, device=presence.device)
        for column, (modality, layer) in enumerate(self.first.items()):
            cells = presence[:, column].nonzero().squeeze(1)
            if len(cells):
                part = layer(*inputs[modality])
                if self.norm_parts:
                    part = F.layer_norm(part, (self.n_hidden,))
                part = (part * source[cells, column].unsqueeze(1)).to(summed.dtype)
                everyone = len(cells) == len(presence)
                summed = summed + part if everyone else summed.index_add(0, cells, part)
        if self.average:
            summed = summed / source.sum(dim=1, keepdim=True).clamp(min=1)
        if condition is not None:
            summed = summed + condition
        hidden = self.hidden(self.after_first(summed))
        return self.mean(hidden), self.log_var(hidden).clamp(-10.0, 8.0)


class MosaicDecoder(nn.Module):
    """From the latent space to the raw parameters of every modality's likelihood (step 5).

    The last layers of wide modalities are most of the work of a training step. They read a few
    linear combinations of the hidden units: features vary together, so that these describe them
    nearly as well as all units.

    Parameters
    ----------
    n_outputs
        Number of outputs by modality (features times heads of the likelihood).
    n_latent, n_hidden, n_layers
        Latent dimensions, units per hidden layer, number of hidden layers.
    activation, dropout, layer_norm
        See ``normed`` in ``nn/_layers.py``.
    n_factors
        Linear combinations of the hidden units that the last layer of a modality of more than
        ``WIDE`` outputs reads; None, or not less than there are units: the units themselves.
    linear
        Without hidden layers: the latent dimensions themselves are the units.
    """

    def __init__(
        self,
        n_outputs: Mapping[str, int],
        n_latent: int,
        n_hidden: int,
        n_layers: int,
        activation: str,
        dropout: float,
        layer_norm: bool,
        n_factors: int | None = None,
        linear: bool = False,
    ):
        super().__init__()
        self.linear = linear
        self.n_hidden = n_hidden = n_latent if linear else n_hidden
        if linear:
            self.first = self.after_first = self.hidden = nn.Identity()
        else:
            self.first = nn.Linear(n_latent, n_hidden)
            self.after_first = normed(n_hidden, activation, dropout, layer_norm)
            self.hidden = hidden_layers(n_layers - 1, n_hidden, activation, dropout, layer_norm)
        self.factors, self.last = nn.ModuleDict(), nn.ModuleDict()
        for modality, n in n_outputs.items():
            read = n_hidden
            if n > WIDE and n_factors is not None and n_factors < n_hidden:
                self.factors[modality] = nn.Linear(n_hidden, read := n_factors, bias=False)
                nn.init.normal_(self.factors[modality].weight, std=n_hidden**-0.5)  # as units are
            self.last[modality] = nn.Linear(read, n)

    @torch.no_grad()
    def start_from(self, modality: str, profile: torch.Tensor) -> None:
        """Let the first outputs of a modality, log shares, start at a profile ``(n_features,)``."""
        log = profile.clamp(min=profile[profile > 0].min()).log()
        self.last[modality].bias[: len(log)] = log - log.mean()

    def forward(self, z: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Shared hidden layer of shape ``(B, n_hidden)``.

        Parameters
        ----------
        z
            Latent vectors, shape ``(B, n_latent)``.
        condition
            Vector of the covariates added to the first layer, shape ``(B, n_hidden)``, or None.
        """
        first = self.first(z)
        return self.hidden(self.after_first(first if condition is None else first + condition))

    def outputs(
        self, hidden: torch.Tensor, modality: str, numbers: torch.Tensor | None = None
    ) -> LinearOutputs:
        """Outputs for one modality, or of them those with the given numbers.

        Only the cells that need it are passed in.
        """
        last = self.last[modality]
        if modality in self.factors:
            hidden = self.factors[modality](hidden)
        if numbers is None:
            return LinearOutputs(hidden, last.weight, last.bias)
        weight, bias = last.weight.index_select(0, numbers), last.bias.index_select(0, numbers)
        return LinearOutputs(hidden, weight, bias)
