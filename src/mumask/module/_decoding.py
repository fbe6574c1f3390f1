"""From hidden layers to values of a modality: what it costs to have measured some, what to expect."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mumask.nn._linear_outputs import LinearOutputs, ScaledOutputs

# Values decoded at a time: 8 MiB, which the allocator of a CPU has at hand and the caches hold.
BLOCK = 2**21


class Decoding:
    """Output of a :class:`MaskedVAEModule`, from its decoder's last layer on."""

    decodes_rare = True  # the likelihood of counts tells a rate of 0.001 from one of 0.01

    def _in_spreads(self, name: str) -> bool:
        """The decoder gives real values in spreads around their centre, whatever their unit."""
        gaussian = self.likelihoods[name].support == "real"
        return gaussian and self.transforms[name].standardize and not self.paper_outputs

    def _outputs(
        self, hidden: torch.Tensor, name: str, columns: torch.Tensor | None = None
    ) -> LinearOutputs | ScaledOutputs:
        """What the likelihood of a modality takes of its features, or of those in `columns`."""
        numbers = columns
        if columns is not None:
            heads = range(self.likelihoods[name].n_heads)
            numbers = torch.cat([columns + head * self.n_features[name] for head in heads])
        outputs = self.decoder.outputs(hidden, name, numbers)
        if not self._in_spreads(name):
            return outputs
        center, spread = self.transforms[name].center, self.transforms[name].spread
        if columns is not None:
            center, spread = center[columns], spread[columns]
        return ScaledOutputs(*outputs, spread, center)

    def loadings(self, name: str) -> torch.Tensor:
        """Change of a linear decoder's outputs per unit of the latent space.

        ``(n_features, n_latent)``; of the first outputs, where a feature has several.
        """
        last = self.decoder.last[name].weight
        outputs = self._outputs(torch.eye(self.n_latent, device=last.device), name)
        by_dimension = outputs.hidden @ outputs.weight.T
        if isinstance(outputs, ScaledOutputs):
            by_dimension = by_dimension * outputs.scale
        return by_dimension[:, : self.n_features[name]].T

    def cost(
        self,
        hidden: torch.Tensor,
        name: str,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        columns: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Negative log-likelihood of the unmasked values of one modality, summed, ``(n,)``.

        Of all features or, as :func:`mumask.nn.narrowed` gives them, of those in `columns`.
        """
        return self.likelihoods[name].nll(self._outputs(hidden, name, columns), x, mask, columns)

    def to_decoder(self, corrected: torch.Tensor, covariates: dict) -> torch.Tensor:
        """Undo the latent arithmetic for the given covariates: ``Z1 = Z2 - sign * E``."""
        if self.latent_covariates is None:
            return corrected
        return corrected - self.sign * self.latent_covariates(**covariates)

    def expected_total(self, hidden: torch.Tensor, modality: str) -> torch.Tensor | None:
        """Total of all features that cells of this state have, ``(B, 1)``; None for real values."""
        return self.totals[modality](hidden) if modality in self.totals else None

    def expected(
        self,
        hidden: torch.Tensor,
        modality: str,
        total: torch.Tensor,
        mask: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Expected values of one modality on the registered scale.

        Parameters
        ----------
        hidden, modality
            From :meth:`generative`, ``(B, n_hidden)``; what to decode.
        total, mask
            Totals ``(B, 1)`` of the features in `mask` (booleans ``(B, n_features)``; None = all).
        features
            Numbers of the features to return; None = all.

        Returns
        -------
        Values of shape ``(B, n_features)``, or ``(B, len(features))``.
        """
        mean = self.likelihoods[modality].mean
        return self._in_blocks(lambda *block: mean(*block, features), hidden, modality, total, mask)

    def drawn(
        self,
        hidden: torch.Tensor,
        modality: str,
        total: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Values of one modality drawn from its likelihood, ``(B, n_features)``, 0 where masked.

        Arguments as those of :meth:`expected`.
        """
        likelihood = self.likelihoods[modality]
        values = self._in_blocks(
            lambda *block: likelihood.distribution(*block).sample(), hidden, modality, total, mask
        )
        return values if mask is None else values * mask

    def _in_blocks(self, read: Callable, hidden, modality: str, total, mask) -> torch.Tensor:
        """Rows that `read` makes of the outputs of some cells, their totals and their mask."""
        rows = max(1, BLOCK // self.n_features[modality])
        masks = [None] * len(total.split(rows)) if mask is None else mask.split(rows)
        blocks = zip(hidden.split(rows), total.split(rows), masks, strict=True)
        decoded = lambda rows_of_hidden: self._outputs(rows_of_hidden, modality).raw()
        return torch.cat([read(decoded(h), t, m) for h, t, m in blocks])
