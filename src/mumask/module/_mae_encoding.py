"""How a CrossAttentionMAEModule turns a minibatch into tokens and an embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mumask.data import keys
from mumask.nn import as_dense
from mumask.nn._fusion import Encoded
from mumask.nn._tokens import TokenMask, random_token_mask

# Rounds of decoding what a panel lacks and encoding anew. With RNA alone and a tenth of the genes
# of pbmc10k, the accuracy of unseen labels was .30, .42 and .48 after 0 to 2.
ROUNDS = 2


class Embedded(NamedTuple):
    """The embedding of a minibatch, and what it is made from.

    Attributes
    ----------
    z
        ``(B, n_latent)``.
    encoded, fused
        Tokens by modality, before and after fusion.
    masks
        Which tokens are hidden, by modality.
    seen
        Features ``(n_m, F)`` of the modalities of which random panels are shown.
    """

    z: Tensor
    encoded: dict[str, Encoded]
    fused: dict[str, Encoded]
    masks: dict[str, TokenMask]
    seen: dict[str, Tensor]


class MAEEncoding:
    """Encoding, with what must stay hidden, of the module it is mixed into."""

    def embed(self, tensors: Mapping[str, Tensor], source: Tensor, ratio: float) -> Embedded:
        """Encode the tokens of every modality and fuse them.

        Features beyond a panel that no training saw are decoded and the cells encoded anew, see
        ``QueryInference``; masked training predicts what is hidden from what was measured alone.

        Parameters
        ----------
        tensors, source, ratio
            A minibatch, the modalities ``(B, M)`` to encode from, the share of tokens to hide.
        """
        embedded = self.encode_tokens(tensors, source, ratio)
        lacking = {}
        if not self.hiding:
            lacking = self.what_is_lacking(tensors)
        for _ in range(ROUNDS if lacking else 0):
            with torch.no_grad():
                covariates = self.covariates(tensors)
                hidden = self.what_decoders_read(embedded.z, covariates, embedded.fused)
                expected = {
                    name: (missing, self._standardised(tensors, hidden, name))
                    for name, missing in lacking.items()
                }
            embedded = self.encode_tokens(tensors, source, ratio, expected)
        return embedded

    def _standardised(self, tensors, hidden: dict, name: str) -> Tensor:
        """Decoded values ``(n_m, F)`` on the scale of the inputs."""
        decoded = self.decode(hidden, name)[self.rows_of(tensors, name)]
        return self.encoders[name].norm.standardise(decoded)

    def encode_tokens(
        self, tensors: Mapping[str, Tensor], source: Tensor, ratio: float, expected: Mapping = {}
    ) -> Embedded:
        """Encode and fuse what was measured, and `expected` in place of what was not.

        Parameters
        ----------
        tensors, source, ratio
            As for :meth:`embed`.
        expected
            By modality, elements that count as measured, and standardised values, of which those
            are taken there; ``(n_m, F)`` each.
        """
        encoded, masks, seen = {}, {}, {}
        for column, name in enumerate(self.names):
            encoder, rows = self.encoders[name], self.rows_of(tensors, name)
            x, measured = as_dense(tensors[keys.values_key(name)]), self.measured(tensors, name)
            if self.hiding:
                visible = self.through_random_panel(tensors, name, measured)
                if visible is not measured:
                    measured = seen[name] = visible
            missing, filled = expected.get(name, (None, None))
            known = measured if missing is None else measured | missing
            tokens = None if known is None else encoder.tokens.group(known).any(2)
            mask = random_token_mask(
                len(rows), encoder.tokens.n_tokens, ratio, tokens, device=source.device
            )
            masks[name], shown = mask, source[rows, column]
            if not shown.all():
                if self.hiding:
                    # To be predicted, all of it: what a cell lacks for the user is decoded so.
                    masks[name] = mask.hiding(~shown)
                rows, x, mask = rows[shown], x[shown], mask.rows(shown)
                measured, missing, filled = (
                    None if part is None else part[shown] for part in (measured, missing, filled)
                )
            encoded[name] = Encoded(*encoder(x, measured, mask, missing, filled), rows)
        z, fused = self.fusion(encoded, len(source))
        return Embedded(z, encoded, fused, masks, seen)
