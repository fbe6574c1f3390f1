"""Feature tokens: grouping features, embedding them, and hiding some of them.

A token holds a fixed group of features of one modality. Groups are hidden whole, and each feature
is embedded on its own before its group is summed, so that a hidden value cannot reach a visible
token (a dense layer in front of the mask would let it).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class TokenMask(NamedTuple):
    """Which tokens of each row are visible and which are hidden.

    Attributes
    ----------
    visible
        Int64 ``[n, v]``, ids of the tokens the encoder sees.
    visible_valid
        Bool ``[n, v]``, False = padding; None if nothing is padded.
    hidden
        Int64 ``[n, h]``, ids of the tokens to reconstruct.
    hidden_valid
        Bool ``[n, h]`` or None, as above.
    seen
        Bool ``[n, t]``: the token is visible.
    """

    visible: Tensor
    visible_valid: Tensor | None
    hidden: Tensor
    hidden_valid: Tensor | None
    seen: Tensor

    def rows(self, chosen: Tensor) -> TokenMask:
        """The same for some rows (bool ``[n]`` or ids)."""
        return TokenMask(*(None if field is None else field[chosen] for field in self))

    def hiding(self, rows: Tensor) -> TokenMask:
        """The same with all that was visible of some rows (bool ``[n]``) hidden too."""
        hidden = self.is_hidden() | (self.seen & rows[:, None])
        seen = self.seen & ~rows[:, None]
        return TokenMask(*_pack(seen), *_pack(hidden), seen)

    def is_hidden(self) -> Tensor:
        """Bool ``[n, t]``: the token is hidden (neither visible nor unmeasured)."""
        flags = torch.zeros_like(self.seen)
        valid = torch.ones_like(self.hidden, dtype=torch.bool)
        return flags.scatter(
            1, self.hidden, valid if self.hidden_valid is None else self.hidden_valid
        )


def drop_modalities(presence: Tensor, share: float) -> Tensor:
    """Hide random modalities, never all, of a random `share` of the cells.

    Parameters
    ----------
    presence
        Bool ``[B, M]``.
    share
        Share of the cells with at least two modalities that lose one to all but one of them.

    Returns
    -------
    Tensor
        Bool ``[B, M]``, what remains.
    """
    spare = (presence.sum(1) - 1).clamp(min=0)
    noise, extent, coin = (
        torch.rand(shape, device=presence.device)
        for shape in (presence.shape, spare.shape, spare.shape)
    )
    # Uniform over 1..spare; the lowest-ranked present modalities go.
    n_dropped = ((extent * spare).long() + 1).clamp(max=spare) * (coin < share)
    rank = noise.masked_fill(~presence, 2.0).argsort(1).argsort(1)
    return presence & (rank >= n_dropped[:, None])


def random_token_mask(
    n_rows: int,
    n_tokens: int,
    ratio: float,
    measured: Tensor | None = None,
    device: torch.device | str | None = None,
) -> TokenMask:
    """Hide a random ``ratio`` of each row's measured tokens, independently by row.

    Parameters
    ----------
    n_rows, n_tokens
        n cells and t tokens.
    ratio
        Share to hide in [0, 1). At least one token is hidden when ``ratio > 0``, and at least one
        stays visible, as far as the row has two.
    measured
        Bool ``[n, t]``: tokens with at least one measured feature; None = all. Others are neither
        visible nor hidden.
    device
        Where the ids live; ``measured``'s device by default.

    Returns
    -------
    TokenMask
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"The mask ratio must lie in [0, 1), not {ratio}.")
    device = measured.device if measured is not None else device
    noise = torch.rand(n_rows, n_tokens, device=device)
    if measured is None:
        n_hidden = _n_hidden(torch.tensor(n_tokens), ratio).item()
        order = noise.argsort(1)
        visible, hidden = order[:, n_hidden:], order[:, :n_hidden]
        seen = torch.ones_like(order, dtype=torch.bool).scatter(1, hidden, False)
        return TokenMask(visible, None, hidden, None, seen)

    counts = measured.sum(1, keepdim=True)
    n_hidden = _n_hidden(counts, ratio)
    # Rank of each measured token in its row; unmeasured ones rank last.
    rank = noise.masked_fill(~measured, 2.0).argsort(1).argsort(1)
    is_hidden = measured & (rank < n_hidden)
    seen = measured & ~is_hidden
    visible, visible_valid = _pack(seen)
    hidden, hidden_valid = _pack(is_hidden)
    return TokenMask(visible, visible_valid, hidden, hidden_valid, seen)


def _n_hidden(n_tokens: Tensor, ratio: float) -> Tensor:
    """Number of tokens to hide out of ``n_tokens``."""
    if ratio == 0:
        return torch.zeros_like(n_tokens)
    wanted = torch.round(n_tokens * ratio).long().clamp(min=1)
    return torch.minimum(wanted, (n_tokens - 1).clamp(min=0))


def _pack(flags: Tensor) -> tuple[Tensor, Tensor | None]:
    """Ids of the True entries of each row, left-aligned, with their validity (None if all)."""
    counts = flags.sum(1)
    width = int(counts.max()) if len(counts) else 0
    ids = flags.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    valid = torch.arange(width, device=flags.device) < counts[:, None]
    return ids, None if bool(valid.all()) else valid


class FeatureTokens(nn.Module):
    """Groups of features and their embedding (scMMAE, input equation: value plus symbol).

    Feature f with value x_f enters its token as ``x_f * value_f + symbol_f``; a token is the sum
    over its *measured* features. With one feature per token this is the paper's input equation;
    a missing feature contributes neither value nor symbol, which tells it apart from one measured
    at its mean.

    Parameters
    ----------
    n_features
        F features of the modality.
    n_embed
        Token width D.
    token_size
        Features per token G; the last tokens are padded. Members of a group are drawn at random
        (once, from ``seed``): neighbours in a feature list are often related, and a hidden token
        should be predictable from visible ones.
    seed
        Seed of the grouping.
    """

    def __init__(self, n_features: int, n_embed: int, token_size: int, seed: int = 0):
        super().__init__()
        n_tokens = -(-n_features // token_size)
        self.n_features, self.n_tokens, self.token_size = n_features, n_tokens, token_size
        order = torch.randperm(n_features, generator=torch.Generator().manual_seed(seed))
        members = torch.full((n_tokens * token_size,), n_features)
        # Dealt round-robin, so that group sizes differ by one at most.
        deal = torch.arange(n_tokens * token_size).view(n_tokens, token_size).T.flatten()
        members[deal[:n_features]] = order
        position = torch.empty(n_features, dtype=torch.long)
        position[order] = deal[:n_features]
        members = members.view(n_tokens, token_size)
        self.register_buffer("members", members)
        self.register_buffer("position", position)
        self.register_buffer("exists", members < n_features)
        self.padded = n_features < members.numel()
        # Small, so that training soon outgrows the random projection of the features.
        self.value = nn.Parameter(0.02 * torch.randn(n_tokens, token_size, n_embed))
        self.symbol = nn.Parameter(
            0.3 * torch.randn(n_tokens, token_size, n_embed) / token_size**0.5
        )

    @torch.no_grad()
    def start_from(self, loadings: Tensor) -> None:
        """Start the first k dimensions of each feature's value embedding at ``[F, k]``."""
        k = loadings.shape[1]
        grouped = self.group(loadings.T)  # [k, t, G]
        self.value[:, :, :k] = grouped.permute(1, 2, 0) * self.n_tokens

    def group(self, x: Tensor) -> Tensor:
        """Features ``[n, F]`` to groups ``[n, t, G]``; padding is 0 (False)."""
        index = self.members.flatten().clamp(max=self.n_features - 1)
        grouped = x.index_select(1, index).unflatten(1, self.members.shape)
        if not self.padded:
            return grouped
        return grouped * self.exists if x.dtype != torch.bool else grouped & self.exists

    def ungroup(self, grouped: Tensor) -> Tensor:
        """Groups ``[n, t, G]`` back to features ``[n, F]``."""
        return grouped.flatten(1).index_select(1, self.position)

    def forward(self, grouped: Tensor, measured: Tensor | None = None) -> Tensor:
        """Embed.

        Parameters
        ----------
        grouped
            Values ``[n, t, G]``, 0 where not measured.
        measured
            Bool ``[n, t, G]``; None = all that exist.

        Returns
        -------
        Tensor
            Tokens ``[n, t, D]``.
        """
        values = torch.einsum("ntg,tgd->ntd", grouped, self.value)
        if measured is None:
            symbols = (self.symbol * self.exists[..., None]).sum(1)
        else:
            symbols = torch.einsum("ntg,tgd->ntd", measured.to(grouped.dtype), self.symbol)
        return values + symbols
