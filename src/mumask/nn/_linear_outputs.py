"""The last layer of a decoder as the losses take it: not its outputs, but what they come from.

The outputs of a modality of tens of thousands of peaks are the largest matrix of a training step. A
loss that is given hidden units, weights and biases computes them where it needs them, overwrites
them by its derivatives, and passes these on as they are: the gradient of a cell's loss scales its
row, which is left to the narrow matrices on the other side of the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F


class LinearOutputs(NamedTuple):
    """Outputs of a linear layer that have not been computed yet.

    Attributes
    ----------
    hidden
        Input of the layer, ``(n, n_hidden)``.
    weight, bias
        Of the layer, ``(n_outputs, n_hidden)`` and ``(n_outputs,)``.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def raw(self) -> torch.Tensor:
        """The outputs, ``(n, n_outputs)``."""
        return F.linear(*self)


class ScaledOutputs(NamedTuple):
    """Outputs of a linear layer, times a scale plus a shift, for losses that take them computed.

    Neither is multiplied into the layer: mixed precision rounds the product, and would leave little
    of a value that is small beside the shift.

    Attributes
    ----------
    hidden, weight, bias
        As in :class:`LinearOutputs`.
    scale, shift
        By output, ``(n_outputs,)``.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def raw(self) -> torch.Tensor:
        """The outputs, ``(n, n_outputs)``, in the precision of scale and shift."""
        return F.linear(self.hidden, self.weight, self.bias) * self.scale + self.shift


def passed_back(
    grad: torch.Tensor,
    of_raw: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    needed: Sequence[bool],
    dtype: torch.dtype,
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of hidden units, weights and biases.

    Parameters
    ----------
    grad, of_raw
        Gradient of the loss of every cell, ``(n,)``, and the derivative of that loss to the outputs.
    hidden, weight
        Of the layer.
    needed
        Which of the three are wanted; the others are None.
    dtype
        Of the outputs, so of the products.
    """
    if torch.is_grad_enabled():  # derivatives were computed with the loss, without a way back
        raise RuntimeError("A loss of counts has no second derivatives: leave out `create_graph`.")
    by_cell = grad.unsqueeze(1)
    dtype = dtype if dtype == torch.bfloat16 else weight.dtype  # half precision would overflow
    factor = of_raw.to(dtype)
    of_hidden = of_weight = None
    if needed[0]:
        of_hidden = (factor @ weight.to(dtype) * by_cell).to(hidden.dtype)
    if needed[1]:
        of_weight = (factor.T @ (hidden * by_cell).to(dtype)).to(weight.dtype)
    return of_hidden, of_weight, grad @ of_raw if needed[2] else None
