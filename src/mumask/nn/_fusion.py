"""Fusion of modalities by cross-attention over tokens, for any subset of them per cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ._attention import Attention, FeedForward, pool, validity


class Encoded(NamedTuple):
    """Tokens of one modality in a minibatch of B cells.

    Attributes
    ----------
    tokens
        ``[n, v, D]``.
    valid
        Bool ``[n, v]``, False = padding; None = none.
    rows
        Int64 ``[n]``, ascending: the cells the tokens belong to.
    """

    tokens: Tensor
    valid: Tensor | None
    rows: Tensor


class CrossBlock(nn.Module):
    """Cross-attention of one modality's tokens over those of the others, plus feed-forward.

    scMMAE: the cross-modal part C = attention(queries of one modality, keys and values of the
    others); the distinctive part I is the block's input, kept by the residual (decoder input
    ``C + I``).

    Parameters
    ----------
    n_embed, n_heads, dropout, mlp_ratio
        As in :class:`SelfBlock`.
    distinctive
        Keep the residual I. False is the paper's ablation "without distinctive information".
    """

    def __init__(
        self,
        n_embed: int,
        n_heads: int,
        dropout: float = 0.0,
        mlp_ratio: float = 4.0,
        distinctive: bool = True,
    ):
        super().__init__()
        self.distinctive = distinctive
        self.norm_query = nn.LayerNorm(n_embed)
        self.norm_context = nn.LayerNorm(n_embed)
        self.attention = Attention(n_embed, n_heads, dropout)
        self.drop = nn.Dropout(dropout)
        self.feed_forward = FeedForward(n_embed, mlp_ratio, dropout)

    def forward(self, queries: Tensor, context: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokens ``[n, q, D]``, context ``[n, k, D]``, its validity ``[n, k]`` to ``[n, q, D]``."""
        crossed = self.attention(self.norm_query(queries), self.norm_context(context), valid)
        tokens = self.drop(crossed) + (queries if self.distinctive else 0.0)
        return tokens + self.feed_forward(tokens)

    def weights(self, queries: Tensor, context: Tensor, valid: Tensor | None = None) -> Tensor:
        """Attention weights ``[n, h, q, k]`` of :meth:`forward`."""
        return self.attention.weights(self.norm_query(queries), self.norm_context(context), valid)


class AddBlock(nn.Module):
    """Fusion by element-wise addition of the others' mean token: scMMAE's ablation baseline."""

    def __init__(
        self, n_embed: int, dropout: float = 0.0, mlp_ratio: float = 4.0, distinctive: bool = True
    ):
        super().__init__()
        self.distinctive = distinctive
        self.norm_context = nn.LayerNorm(n_embed)
        self.feed_forward = FeedForward(n_embed, mlp_ratio, dropout)

    def forward(self, queries: Tensor, context: Tensor, valid: Tensor | None = None) -> Tensor:
        """Shapes as in :meth:`CrossBlock.forward`."""
        added = pool(self.norm_context(context), valid)[:, None].expand_as(queries)
        tokens = added + (queries if self.distinctive else 0.0)
        return tokens + self.feed_forward(tokens)


class CrossFusion(nn.Module):
    """From encoded tokens of each modality to one embedding per cell.

    Tokens of modality m query the tokens of all *other* modalities the cell shows; the result C,
    added to what the encoder gave (the distinctive part I), is averaged over tokens and mapped by
    a linear layer of m's own. The joint representation u concatenates these parts, as the paper's
    stage 2 does.

    Where modality m is absent, its queries are replaced by a learned projection of the tokens
    that are there, so that cross-attention becomes self-attention (scMMAE, stage 3). A cell with a
    single modality attends to its own tokens.

    Parameters
    ----------
    names
        Modalities.
    n_embed, n_latent
        Token width D and dimensions of the joint embedding.
    n_heads, dropout, mlp_ratio
        Of the blocks.
    kind
        ``"attention"``, or ``"addition"`` (ablation).
    distinctive
        Keep the residual I.
    """

    def __init__(
        self,
        names: Sequence[str],
        n_embed: int,
        n_latent: int,
        n_heads: int,
        dropout: float,
        mlp_ratio: float,
        kind: Literal["attention", "addition"] = "attention",
        distinctive: bool = True,
    ):
        super().__init__()
        self.names = list(names)
        self.has_attention = kind == "attention" and len(self.names) > 1
        self.blocks, self.stand_ins = nn.ModuleDict(), nn.ModuleDict()
        for name in self.names if len(self.names) > 1 else []:
            if kind == "attention":
                block = CrossBlock(n_embed, n_heads, dropout, mlp_ratio, distinctive)
            else:
                block = AddBlock(n_embed, dropout, mlp_ratio, distinctive)
            self.blocks[name] = block
            self.stand_ins[name] = nn.Linear(n_embed, n_embed)
        bounds = [n_latent * i // len(self.names) for i in range(len(self.names) + 1)]
        self.slices = {m: slice(*bounds[i : i + 2]) for i, m in enumerate(self.names)}
        self.to_latent = nn.ModuleDict(
            {m: nn.Linear(n_embed, part.stop - part.start) for m, part in self.slices.items()}
        )

    def context(
        self, encoded: Mapping[str, Encoded], name: str, n_cells: int
    ) -> tuple[Tensor, Tensor | None]:
        """Keys and values for modality `name`: tokens ``[B, k, D]``, validity ``[B, k]``.

        The tokens of all other modalities; a cell without any sees its own ones.
        """
        tokens, valid = [], []
        for other in self.names:
            if other != name:
                part = encoded[other]
                tokens.append(spread(part.tokens, part.rows, n_cells))
                valid.append(spread(validity(part.tokens, part.valid), part.rows, n_cells))
        alone = ~torch.cat(valid, 1).any(1)
        if alone.any():
            own = encoded[name]
            tokens.append(spread(own.tokens, own.rows, n_cells))
            own_valid = spread(validity(own.tokens, own.valid), own.rows, n_cells)
            valid.append(own_valid & alone[:, None])
        valid = torch.cat(valid, 1)
        return torch.cat(tokens, 1), None if bool(valid.all()) else valid

    def forward(
        self, encoded: Mapping[str, Encoded], n_cells: int
    ) -> tuple[Tensor, dict[str, Encoded]]:
        """Fuse.

        Parameters
        ----------
        encoded
            Visible tokens by modality, every modality in it (with zero rows if need be).
        n_cells
            B.

        Returns
        -------
        tuple
            Joint embedding ``[B, n_latent]``, the parts of the modalities side by side (where:
            ``slices``); the fused tokens ``C + I`` by modality.
        """
        parts, fused = [], {}
        for name in self.names:
            own = encoded[name]
            if len(self.names) == 1:
                pooled, fused[name] = spread(pool(own.tokens, own.valid), own.rows, n_cells), own
            else:
                pooled, fused[name] = self._fuse_one(encoded, name, n_cells)
            parts.append(self.to_latent[name](pooled))
        return torch.cat(parts, 1), fused

    def weights(
        self, encoded: Mapping[str, Encoded], name: str, n_cells: int
    ) -> tuple[Tensor, dict[str, slice]]:
        """Attention of `name`'s tokens over the others', ``[n, v, k]``, and whose keys are where.

        Mean over heads. A key of an absent modality has weight zero; a cell without any other
        modality attends to itself, and all its weights here are zero.
        """
        context, valid = self.context(encoded, name, n_cells)
        rows, block = encoded[name].rows, self.blocks[name]
        checks = None if valid is None else valid[rows]
        weights = block.weights(encoded[name].tokens, context[rows], checks).mean(1)
        slices, start = {}, 0
        for other in self.names:
            if other != name:
                stop = start + encoded[other].tokens.shape[1]
                slices[other], start = slice(start, stop), stop
        return weights[:, :, :start], slices

    def _fuse_one(self, encoded, name: str, n_cells: int) -> tuple[Tensor, Encoded]:
        own, block = encoded[name], self.blocks[name]
        context, valid = self.context(encoded, name, n_cells)
        if len(own.rows) == n_cells:
            tokens = block(own.tokens, context, valid)
            return pool(tokens, own.valid), own._replace(tokens=tokens)
        here = torch.zeros(n_cells, dtype=torch.bool, device=context.device)
        here[own.rows] = True
        absent = (~here).nonzero().squeeze(1)
        checks = validity(context, valid)
        tokens = block(own.tokens, context[own.rows], checks[own.rows])
        context, checks = context[absent], checks[absent]
        stand_in = block(self.stand_ins[name](context), context, checks)
        pooled = spread(pool(tokens, own.valid), own.rows, n_cells)
        pooled = pooled.index_copy(0, absent, pool(stand_in, checks))
        return pooled, own._replace(tokens=tokens)


def spread(x: Tensor, rows: Tensor, n_cells: int) -> Tensor:
    """Put ``x[i]`` at ``rows[i]`` of a tensor with `n_cells` rows, zeros (False) elsewhere."""
    if len(rows) == n_cells:
        return x
    return x.new_zeros(n_cells, *x.shape[1:]).index_copy(0, rows, x)
