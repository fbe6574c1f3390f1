"""From hidden layers to values of a modality: what it costs to have measured some, what to expect."""

from __future__ import annotations

import torch


class Decoding:
    """Output of a :class:`MaskedVAEModule`, from its decoder's last layer on."""

    def _in_spreads(self, name: str) -> bool:
        """The decoder gives real values in spreads around their centre, whatever their unit."""
        gaussian = self.likelihoods[name].support == "real"
        return gaussian and self.transforms[name].standardize and not self.paper_outputs

    def _raw(
        self, hidden: torch.Tensor, name: str, columns: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the likelihood of a modality takes of its features, or of those in `columns`.

        Shape ``(n, n_heads * n_features)``.
        """
        outputs = columns
        if columns is not None:
            heads = range(self.likelihoods[name].n_heads)
            outputs = torch.cat([columns + head * self.n_features[name] for head in heads])
        raw = self.decoder.raw(hidden, name, outputs)
        if not self._in_spreads(name):
            return raw
        center, spread = self.transforms[name].center, self.transforms[name].spread
        if columns is not None:
            center, spread = center[columns], spread[columns]
        return center + spread * raw

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
        return self.likelihoods[name].nll(self._raw(hidden, name, columns), x, mask, columns)

    def to_decoder(self, corrected: torch.Tensor, covariates: dict) -> torch.Tensor:
        """Undo the latent arithmetic for the given covariates: ``Z1 = Z2 - sign * E``."""
        if self.latent_covariates is None:
            return corrected
        return corrected - self.sign * self.latent_covariates(**covariates)

    def expected_total(self, hidden: torch.Tensor, modality: str) -> torch.Tensor | None:
        """Total of all features that cells of this state have, ``(B, 1)``; None for real values."""
        return self.totals[modality](hidden) if modality in self.totals else None

    def expected(self, hidden: torch.Tensor, modality: str, total, mask=None) -> torch.Tensor:
        """Expected values of one modality, shape ``(B, n_features)``, for totals ``(B, 1)``."""
        return self.likelihoods[modality].mean(self._raw(hidden, modality), total, mask)
