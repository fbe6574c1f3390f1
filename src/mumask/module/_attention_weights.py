"""Reading the cross-attention of a CrossAttentionMAEModule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from mumask.data import keys


class AttentionWeights:
    """``cross_attention`` of the module it is mixed into."""

    def cross_attention(
        self,
        tensors: Mapping[str, Tensor],
        query: str,
        key: str,
        orders: Iterable[Tensor] = (),
    ) -> Iterator[Tensor]:
        """Attention of one modality's tokens over those of another, for cells that have both.

        Encoders see one modality each, so a cell's tokens are encoded once, however often they are
        paired anew.

        Parameters
        ----------
        tensors
            A minibatch of B cells, all with both modalities.
        query, key
            Whose tokens ask, and whose they attend to.
        orders
            Permutations ``(B,)``; for each, cell i attends to the key modality of cell order[i].

        Yields
        ------
        Weights ``(B, query tokens, key tokens)``, mean over heads, for the data as they are and
        then for each order; 1 is what even attention over all keys of the cell gives. NaN where
        the cell has no measured feature in one of the tokens. The features of token i are
        ``encoders[m].tokens.members[i]``.
        """
        presence = tensors[keys.PRESENCE]
        # What was measured alone, with nothing filled in that a query's panel lacks.
        _, encoded, _, masks, _ = self.encode_tokens(tensors, presence, ratio=0.0)
        n_cells = len(presence)
        for order in (None, *orders):
            shown, ids = dict(encoded), masks[key]
            if order is not None:
                own = encoded[key]
                valid = None if own.valid is None else own.valid[order]
                shown[key], ids = (
                    own._replace(tokens=own.tokens[order], valid=valid),
                    ids.rows(order),
                )
            weights, slices = self.fusion.weights(shown, query, n_cells)
            weights = weights * (weights > 0).sum(-1, keepdim=True)
            weights = self._by_token(weights[:, :, slices[key]].transpose(1, 2), ids, key)
            yield self._by_token(weights.transpose(1, 2), masks[query], query)

    def _by_token(self, weights: Tensor, mask, name: str) -> Tensor:
        """Visible tokens, ``(B, v, ...)``, at the places of all tokens, ``(B, t, ...)``."""
        n_tokens = self.encoders[name].tokens.n_tokens
        if mask.visible.shape[1] == n_tokens and mask.visible_valid is None:  # nothing was moved
            return weights
        placed = weights.new_full((len(weights), n_tokens + 1, weights.shape[2]), float("nan"))
        ids = mask.visible
        if mask.visible_valid is not None:  # what pads a row goes to a place behind the last token
            ids = ids.masked_fill(~mask.visible_valid, n_tokens)
        placed = placed.scatter(1, ids[:, :, None].expand_as(weights), weights)
        return placed[:, :-1]
