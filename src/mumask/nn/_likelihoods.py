"""Likelihoods of one modality, in terms of the decoder's raw output.

Each takes the decoder's ``n_heads * n_features`` outputs and gives the negative log-likelihood per
cell (``nll``, of :class:`LinearOutputs`) and, of ``raw``, the outputs themselves, the expected values
(``mean``) and what they are expected of (``distribution``, to draw from). Masked elements are left
out of every sum and of the normalisation over features, so that they have no gradient. What is
masked in all cells need not be there at all: ``nll`` then takes the `columns` that its arguments hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import scvi.distributions
import torch
from torch import distributions, nn
from torch.nn import functional as F

from ._fused_losses import DetectionLoss, NegativeBinomialLoss, excluded
from ._gamma_ratios import log_gamma_ratio
from ._linear_outputs import LinearOutputs
from ._values import as_dense, by_row, nonzeros, row_sums


def _unmasked_sum(elements: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return (elements if mask is None else elements * mask).sum(dim=1)


def _picked(values: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
    """Those of some features, which the last dimension counts; None = all."""
    return values if features is None else values.index_select(-1, features)


class CountLikelihood(nn.Module, ABC):
    """Counts whose mean is the cell's total times a composition over features.

    The composition is a softmax over the measured features: a batch with a smaller panel spreads
    its total over that panel alone.
    """

    support = "count"
    n_heads = 1

    def __init__(self, n_features: int):
        super().__init__()

    def log_mean(
        self,
        raw: torch.Tensor,
        total: torch.Tensor,
        mask: torch.Tensor | None,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Log of the expected counts, shape ``(n, n_features)``, for totals of shape ``(n, 1)``."""
        unmasked = raw if mask is None else raw.masked_fill(excluded(mask), float("-inf"))
        norm = unmasked.logsumexp(dim=1, keepdim=True)
        return _picked(raw, features) - (norm - total.log())

    def mean(
        self,
        raw: torch.Tensor,
        total: torch.Tensor,
        mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Expected counts in a cell with `total` counts in the features of `mask`.

        Of all features, or of those whose numbers are in `features`. Features outside of the mask
        are expected beside them: this is what imputes a panel.
        """
        return self.log_mean(raw, total, mask, features).exp()

    @abstractmethod
    def nll(
        self,
        outputs: LinearOutputs,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        columns: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Negative log-likelihood summed over unmasked features, shape ``(n,)``."""

    @abstractmethod
    def distribution(
        self, raw: torch.Tensor, total: torch.Tensor, mask: torch.Tensor | None = None
    ) -> distributions.Distribution:
        """Of the values of cells with `total` counts in the features of `mask`."""


class Poisson(CountLikelihood):
    """Poisson counts."""

    def nll(self, outputs, x, mask=None, columns=None):
        log_mu = self.log_mean(outputs.raw(), row_sums(x, mask).clamp(min=1.0), mask)
        rows, features, values = nonzeros(x)
        if mask is not None:
            values = values * mask[rows, features]
            log_mu = log_mu.masked_fill(~mask, 0.0)  # nothing that could overflow
        seen = values * log_mu[rows, features] - torch.lgamma(values + 1)
        return _unmasked_sum(log_mu.exp(), mask).index_add(0, rows, -seen)

    def distribution(self, raw, total, mask=None):
        return distributions.Poisson(self.mean(raw, total, mask))


class NegativeBinomial(CountLikelihood):
    """Negative binomial counts with one inverse dispersion per feature."""

    def __init__(self, n_features: int):
        super().__init__(n_features)
        self.log_theta = nn.Parameter(torch.zeros(n_features))

    def nll(self, outputs, x, mask=None, columns=None):
        total, log_theta = row_sums(x, mask).clamp(min=1.0), _picked(self.log_theta, columns)
        cost = NegativeBinomialLoss.apply(*outputs, mask, total, log_theta, *by_row(x, mask))
        return cost if mask is None else cost * mask.any(dim=1)

    def distribution(self, raw, total, mask=None):
        mean, theta = self.mean(raw, total, mask), self.log_theta.exp().expand_as(raw)
        return scvi.distributions.NegativeBinomial(mu=mean, theta=theta)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts, zero with an additional probability per element."""

    n_heads = 2

    def nll(self, outputs, x, mask=None, columns=None):
        raw, dropout = outputs.raw().chunk(2, dim=1)
        log_mu = self.log_mean(raw, row_sums(x, mask).clamp(min=1.0), mask)
        log_theta = _picked(self.log_theta, columns)
        zero = log_theta.exp() * F.softplus(log_mu - log_theta)  # theta log(1 + mu / theta)
        # -log(pi + (1 - pi) e^-zero) with pi = sigmoid(dropout)
        cost = F.softplus(dropout) - torch.logaddexp(dropout, -zero)
        rows, features, x = nonzeros(x)
        at, log_theta = (rows, features), log_theta[features]
        log_mu, theta = log_mu[at], log_theta.exp()
        positive = F.softplus(dropout[at]) + zero[at]
        positive = positive + (
            x * torch.logaddexp(log_theta, log_mu)
            - x * log_mu
            + torch.lgamma(x + 1)
            - log_gamma_ratio(x, theta)
        )
        extra = positive - cost[at]
        if mask is not None:
            extra = extra * mask[at]
        return _unmasked_sum(cost, mask).index_add(0, rows, extra)

    def distribution(self, raw, total, mask=None):
        counts, dropout = raw.chunk(2, dim=1)
        mean, theta = self.log_mean(counts, total, mask).exp(), self.log_theta.exp()
        return scvi.distributions.ZeroInflatedNegativeBinomial(
            mu=mean, theta=theta.expand_as(counts), zi_logits=dropout
        )

    def mean(self, raw, total, mask=None, features=None):
        counts, dropout = raw.chunk(2, dim=1)
        kept = torch.sigmoid(-_picked(dropout, features))
        return self.log_mean(counts, total, mask, features).exp() * kept


class Bernoulli(CountLikelihood):
    """Open or closed, such as peaks: open where at least one of Poisson counts is seen.

    Which peaks of a cell are open depends on its sequencing depth before anything else. The means
    of the counts add up to the number of open peaks, as in the other count likelihoods, so that
    the latent space need not hold the depth, times a factor that is learned: where many features
    are open, several counts often fall on one.
    """

    support = "binary"

    def __init__(self, n_features: int):
        super().__init__(n_features)
        self.log_excess = nn.Parameter(torch.zeros(()))

    def nll(self, outputs, x, mask=None, columns=None):
        starts, features, _ = by_row(x, mask)
        n_open = starts.diff().to(self.log_excess.dtype).unsqueeze(1)
        log_total = n_open.clamp(min=1.0).log() + self.log_excess
        cost = DetectionLoss.apply(*outputs, mask, log_total, starts, features)
        return cost if mask is None else cost * mask.any(dim=1)

    def mean(self, raw, total, mask=None, features=None):
        """Probability of every feature, shape ``(n, n_features)``, given `total` open ones."""
        return -torch.expm1(-self.log_excess.exp() * super().mean(raw, total, mask, features))

    def distribution(self, raw, total, mask=None):
        return distributions.Bernoulli(self.mean(raw, total, mask))


class Gaussian(nn.Module):
    """Normalised values with one standard deviation per feature.

    Parameters
    ----------
    n_features
        Number of features.
    paper
        As in inClust+: the mean is rectified (step 5), and every deviation is 1, which makes the loss
        half the squared error.
    """

    support = "real"
    n_heads = 1

    def __init__(self, n_features: int, paper: bool = False):
        super().__init__()
        self.paper = paper
        if not paper:
            self.log_sigma = nn.Parameter(torch.zeros(n_features))

    def nll(self, outputs, x, mask=None, columns=None):
        """Negative log-likelihood (up to a constant) over unmasked features, shape ``(n,)``."""
        residual = as_dense(x) - self.mean(outputs.raw())
        if self.paper:
            return _unmasked_sum(0.5 * residual**2, mask)
        log_sigma = _picked(self.log_sigma, columns)
        return _unmasked_sum(0.5 * (residual * (-log_sigma).exp()) ** 2 + log_sigma, mask)

    def mean(self, raw, total=None, mask=None, features=None):
        """Expected values, shape ``(n, n_features)``."""
        raw = _picked(raw, features)
        return F.relu(raw) if self.paper else raw

    def distribution(self, raw, total=None, mask=None):
        """Of the values of cells; neither total nor mask matter to it."""
        mean = self.mean(raw)
        sigma = mean.new_ones(()) if self.paper else self.log_sigma.exp()
        return distributions.Normal(mean, sigma)


LIKELIHOODS: dict[str, type[nn.Module]] = {
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}
