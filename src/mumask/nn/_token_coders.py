"""Token encoder and decoder of one modality (scMMAE: one pair per modality)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._attention import SelfBlock, validity
from ._inputs import InputNorm
from ._tokens import FeatureTokens, TokenMask


class TokenEncoder(nn.Module):
    """Raw values of one modality to encoded visible tokens.

    Normalisation, embedding and attention all work on visible tokens only: what is hidden cannot
    reach the output.

    Parameters
    ----------
    n_features
        F.
    n_embed
        Token width D.
    token_size
        Features per token.
    n_layers, n_heads, dropout, mlp_ratio
        Of the transformer blocks.
    transform
        See :class:`~mumask.nn.InputNorm`.
    seed
        Seed of the feature grouping.
    """

    def __init__(
        self,
        n_features: int,
        n_embed: int,
        token_size: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        mlp_ratio: float,
        transform: str,
        seed: int,
    ):
        super().__init__()
        self.norm = InputNorm(n_features, transform)
        self.tokens = FeatureTokens(n_features, n_embed, token_size, seed)
        self.blocks = nn.ModuleList(
            SelfBlock(n_embed, n_heads, dropout, mlp_ratio) for _ in range(n_layers)
        )

    def forward(
        self,
        x: Tensor,
        measured: Tensor | None,
        mask: TokenMask,
        missing: Tensor | None = None,
        expected: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Encode.

        Parameters
        ----------
        x
            Raw values ``[n, F]``, dense.
        measured
            Bool ``[n, F]`` or None = all.
        mask
            Visible tokens.
        missing, expected
            Elements (bool ``[n, F]``) that count as measured, and standardised values ``[n, F]``
            of which those are taken there.

        Returns
        -------
        tuple
            Tokens ``[n, v, D]`` and their validity ``[n, v]`` (None = all).
        """
        visible = measured
        if mask.hidden.shape[1]:
            seen = mask.seen[:, :, None].expand(-1, -1, self.tokens.token_size)
            seen = self.tokens.ungroup(seen)
            visible = seen if measured is None else seen & measured
        values = self.norm(x, visible)
        if missing is not None:
            values, measured = torch.where(missing, expected, values), measured | missing
        values = self.tokens.group(values)
        tokens = self.tokens(values, None if measured is None else self.tokens.group(measured))
        # Where all cells lack the same tokens, nothing is padded and yet tokens are left out.
        if mask.visible.shape[1] < self.tokens.n_tokens or mask.visible_valid is not None:
            tokens = tokens.take_along_dim(mask.visible[:, :, None], 1)
        for block in self.blocks:
            tokens = block(tokens, mask.visible_valid)
        return tokens, mask.visible_valid

    def target(self, x: Tensor, measured: Tensor | None) -> tuple[Tensor, Tensor]:
        """Standardised values ``[n, t, G]`` to reconstruct and which of them count (bool)."""
        values = self.tokens.group(self.norm(x, measured))
        counted = self.tokens.exists if measured is None else self.tokens.group(measured)
        return values, counted.expand_as(values)


class TokenDecoder(nn.Module):
    """Cell embedding (and, as in the paper, the visible tokens) to the values of chosen tokens.

    The sequence is one cell token, optionally the fused visible tokens ``C + I``, and one mask
    token per token to decode, marked by its symbol embedding (He et al. 2022).

    Parameters
    ----------
    n_tokens, token_size
        Tokens and features per token of the modality.
    n_embed
        Token width D.
    n_latent
        Width of the cell embedding z.
    n_layers, n_heads, dropout, mlp_ratio
        Of the transformer blocks.
    """

    def __init__(
        self,
        n_tokens: int,
        token_size: int,
        n_embed: int,
        n_latent: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        mlp_ratio: float,
    ):
        super().__init__()
        self.from_latent = nn.Linear(n_latent, n_embed)
        self.mask_token = nn.Parameter(torch.zeros(n_embed))
        self.symbol = nn.Parameter(0.3 * torch.randn(n_tokens, n_embed))
        self.blocks = nn.ModuleList(
            SelfBlock(n_embed, n_heads, dropout, mlp_ratio) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(n_embed)
        self.weight = nn.Parameter(0.02 * torch.randn(n_tokens, n_embed, token_size))
        self.bias = nn.Parameter(torch.zeros(n_tokens, token_size))

    @torch.no_grad()
    def start_from(self, loadings: Tensor) -> None:
        """Start the output layers, ``[t, k, G]`` for the first k of D, at given loadings."""
        self.weight[:, : loadings.shape[1]] = loadings

    def forward(
        self,
        z: Tensor,
        shift: Tensor,
        ids: Tensor,
        ids_valid: Tensor | None = None,
        memory: Tensor | None = None,
        memory_valid: Tensor | None = None,
    ) -> Tensor:
        """Decode tokens ``ids``.

        Parameters
        ----------
        z
            Cell embeddings ``[n, n_latent]``.
        shift
            Covariate embeddings ``[n, D]``.
        ids, ids_valid
            Tokens to decode, ``[n, h]``, and which are no padding.
        memory, memory_valid
            Visible tokens ``[n, v, D]`` the decoder may read as well.

        Returns
        -------
        Tensor
            ``[n, t, G]``; entries of tokens not in ``ids`` are meaningless.
        """
        cell = (self.from_latent(z) + shift)[:, None]
        parts, checks = [cell, cell + self.mask_token + self.symbol[ids]], [None, ids_valid]
        if memory is not None:
            parts.insert(1, memory + shift[:, None])
            checks.insert(1, memory_valid)
        tokens, valid = torch.cat(parts, 1), None
        if any(check is not None for check in checks):
            valid = torch.cat(list(map(validity, parts, checks)), 1)
        for block in self.blocks:
            tokens = block(tokens, valid)
        hidden = self.norm(tokens[:, tokens.shape[1] - ids.shape[1] :])
        # Every token has its own output layer: put each at its place before multiplying.
        spread = hidden.new_zeros(len(z), *self.symbol.shape)
        spread = spread.scatter(1, ids[:, :, None].expand_as(hidden), hidden)
        return torch.einsum("ntd,tdg->ntg", spread, self.weight) + self.bias
