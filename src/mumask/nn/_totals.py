"""Total counts that cells of a state have on average."""

from __future__ import annotations

import torch
from torch import nn

# No cell is expected beyond e^4 times, or below e^-4 times, the average total.
LIMIT = 4.0


class TotalHead(nn.Module):
    """Expected total of a cell's counts in one modality, from the decoder's hidden layer.

    A count likelihood knows the total of a cell that has the modality; a modality that is
    generated has none. A gamma regression with log link learns it beside the decoder: its loss
    has no gradient for anything but its own weights, so that the latent space, which should not
    hold sequencing depth, is the same with and without it.

    Parameters
    ----------
    n_hidden
        Units of the hidden layer.
    average
        Total of an average reference cell: what an untrained head expects.
    """

    def __init__(self, n_hidden: int, average: float):
        super().__init__()
        self.average = max(float(average), 1e-6)
        self.linear = nn.Linear(n_hidden, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def log_ratio(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log of expected over average total, ``(n, 1)``, from hidden units ``(n, n_hidden)``."""
        return self.linear(hidden.detach()).clamp(-LIMIT, LIMIT)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Expected total, shape ``(n, 1)``."""
        return self.average * self.log_ratio(hidden).exp()

    def nll(self, hidden: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """Gamma deviance of totals ``(n, 1)`` up to a constant, mean over the cells."""
        log_ratio = self.log_ratio(hidden)
        return (log_ratio + total / self.average * (-log_ratio).exp()).mean()
