"""How a CrossAttentionMAEModule turns embeddings into values."""

from __future__ import annotations

import torch
from torch import Tensor

from mumask.data import keys
from mumask.nn import as_dense
from mumask.nn._attention import validity
from mumask.nn._fusion import spread


class MAEDecoding:
    """Decoding, for the losses and for users, of the module it is mixed into."""

    decodes_rare = False  # squared errors of logarithms leave some hundredths on every feature

    def what_decoders_read(self, z: Tensor, covariates: dict, fused: dict | None) -> dict:
        """Embeddings ``(B, n_latent)``, covariate embeddings ``(B, D)`` and fused tokens."""
        return {"z": z, "shift": self.decoder_covariates(**covariates), "fused": fused}

    def _decode_tokens(self, hidden: dict, name: str, ids, valid, rows: Tensor) -> Tensor:
        memory = checks = None
        if self.decoder_context == "tokens" and hidden["fused"] is not None:
            own, n_cells = hidden["fused"][name], len(hidden["z"])
            memory = spread(own.tokens, own.rows, n_cells)[rows]
            checks = spread(validity(own.tokens, own.valid), own.rows, n_cells)[rows]
        return self.decoders[name](
            hidden["z"][rows], hidden["shift"][rows], ids, valid, memory, checks
        )

    def all_tokens(self, modality: str, n_rows: int) -> Tensor:
        """Ids of all tokens of a modality, ``(n_rows, t)``."""
        symbol = self.decoders[modality].symbol
        return torch.arange(len(symbol), device=symbol.device).expand(n_rows, -1)

    def to_decoder(self, corrected: Tensor, covariates: dict) -> Tensor:
        """The embedding as decoders read it: undoes :meth:`calibrate`."""
        standardised = torch.linalg.solve(self.agreed, corrected, left=False)
        return standardised * self.latent_scale + self.latent_mean

    def decode(self, hidden: dict, modality: str) -> Tensor:
        """All features of one modality for all cells, on the normalised scale; ``(B, F)``."""
        if modality in (known := hidden.setdefault("decoded", {})):
            return known[modality]
        encoder, n_cells = self.encoders[modality], len(hidden["z"])
        rows = torch.arange(n_cells, device=hidden["z"].device)
        ids = self.all_tokens(modality, n_cells)
        values = self._decode_tokens(hidden, modality, ids, None, rows)
        known[modality] = encoder.norm.destandardise(encoder.tokens.ungroup(values))
        return known[modality]

    def expected_total(self, hidden: dict, modality: str) -> Tensor | None:
        """Total ``(B, 1)`` that a cell should have where its inputs tell (CLR, TF-IDF), else None."""
        norm = self.encoders[modality].norm
        if norm.transform not in ("clr", "tfidf"):
            return None
        return norm.share(self.decode(hidden, modality)).sum(1, keepdim=True)

    def expected(
        self,
        hidden: dict,
        modality: str,
        total: Tensor,
        mask: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Expected values on the registered scale, ``(B, F)``.

        Parameters
        ----------
        hidden, modality
            From :meth:`generative`; what to decode.
        total, mask
            Total ``(B, 1)`` to which counts are scaled, of the features in `mask` (bool
            ``(B, F)``; None = all).
        features
            Numbers of the features to return; None = all.
        """
        values = self.encoders[modality].norm.to_values(self.decode(hidden, modality), total, mask)
        return values if features is None else values[:, features]

    def reconstruction(self, tensors, hidden: dict, target: Tensor) -> dict[str, Tensor]:
        """Squared error of all measured, standardised values by modality, means by cell, ``(B,)``.

        Zero where `target`, booleans ``(B, M)``, is False.
        """
        losses = {}
        for column, name in enumerate(self.names):
            encoder, rows = self.encoders[name], self.rows_of(tensors, name)
            x, measured = as_dense(tensors[keys.values_key(name)]), self.measured(tensors, name)
            normalised = self.decode(hidden, name)[rows]
            error = (encoder.norm.standardise(normalised) - encoder.norm(x, measured)) ** 2
            weight = torch.ones_like(error) if measured is None else measured.to(error)
            error = (error * weight).sum(1) / weight.sum(1).clamp(min=1)
            losses[name] = error.new_zeros(len(target)).index_copy(0, rows, error)
            losses[name] = losses[name] * target[:, column]
        return losses
