"""What a CrossAttentionMAE attends to: weights between features of different modalities."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from scipy.stats import false_discovery_control

from mumask.data import category_names, keys, presence

from ._encode import EncodeMixin

# Weights held at a time, 1 GB of float32.
MAX_WEIGHTS = 2.5e8


class AttentionMixin(EncodeMixin):
    """``get_attention``."""

    def get_attention(
        self,
        query: str,
        key: str,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        groupby: str | None = None,
        n_permutations: int = 200,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Cross-attention of one modality's features over those of another, aggregated over cells.

        Attention is between tokens, so features of one token share its value: choose small tokens
        (``token_size``) to tell single features apart. A weight of 1 is what a token would get if
        attention were spread evenly over all keys.

        Without `groupby`, the baseline says what the pairing of the modalities adds: the key
        modality's cells are shuffled, within a minibatch and a batch, so that a cell attends to
        another one's features. With
        `groupby`, it says how special a group is: cells change groups at random.

        Parameters
        ----------
        query, key
            Modalities: whose tokens ask, and whose tokens they attend to.
        mdata
            Data; by default those of the model.
        indices
            Cells, as numbers, booleans or names; all by default. Only those with both modalities
            are used.
        groupby
            Column of ``mdata.obs`` with groups, such as cell types.
        n_permutations
            Number of permutations, at least two; 0 for no baseline.
        batch_size
            Cells per minibatch.
        seed
            Of the permutations.

        Returns
        -------
        Long data frame: ``query`` and ``key`` (features), ``query_token`` and ``key_token``,
        ``group`` if asked for, ``weight``, and per token pair ``baseline``, ``zscore``, ``pvalue``
        (two-sided, by permutation) and ``padj`` (Benjamini-Hochberg over token pairs and groups).
        NaN for tokens of which no cell, or none of the group, has a measured feature.

        Examples
        --------
        >>> table = model.get_attention("rna", "protein", n_permutations=20)
        >>> strongest = table.sort_values("zscore", ascending=False).head()
        >>> list(strongest.columns[:2])
        ['query', 'key']
        """
        for name in (query, key):
            self._check_modality(name)
        if query == key:
            raise ValueError("`query` and `key` have to be different modalities.")
        if not self.module.fusion.has_attention:
            raise ValueError("The model was made with fusion='addition': it has no attention.")
        if n_permutations and n_permutations < 2:
            raise ValueError(
                f"`n_permutations`={n_permutations}: z-scores need at least 2; 0 gives no baseline."
            )
        mdata, cells = self._cells(mdata, indices)
        cells = cells[presence(mdata, [query, key])[cells].all(axis=1)]
        if not len(cells):
            raise ValueError(f"None of the cells has both {query!r} and {key!r}.")
        names, member = [None], np.ones((1, len(cells)), dtype=np.float32)
        if groupby is not None:
            if groupby not in mdata.obs:
                raise KeyError(f"`groupby`: {groupby!r} is no column of mdata.obs.")
            groups = mdata.obs[groupby].iloc[cells]
            if groups.isna().all():
                raise ValueError(f"`groupby`: {groupby!r} is empty for every cell asked for.")
            cells, groups = cells[groups.notna()], category_names(groups[groups.notna()]).to_numpy()
            names = list(np.unique(groups))
            member = (groups == np.array(names)[:, None]).astype(np.float32)
        rng = np.random.default_rng(seed)
        n_shuffles = 0 if groupby else n_permutations
        by_cell, null = self._token_attention(
            mdata, cells, query, key, batch_size, n_shuffles, rng, keep=groupby is not None
        )
        if groupby is None:
            observed = by_cell
        else:
            observed = _group_means(by_cell, member)
            null = [
                _group_means(by_cell, member[:, rng.permutation(len(cells))])
                for _ in range(n_permutations)
            ]
        return self._attention_table(query, key, names, observed, null)

    def _token_attention(self, mdata, cells, query, key, batch_size, n_shuffles, rng, keep):
        """Token weights by cell (`keep`) or their mean; and the means of shuffled pairings."""
        shape = [self.module.encoders[m].tokens.n_tokens for m in (query, key)]
        if keep and len(cells) * np.prod(shape) > MAX_WEIGHTS:
            raise ValueError(
                f"{len(cells)} cells x {shape[0]} x {shape[1]} tokens are too many weights to hold: "
                f"pass `indices` of at most {int(MAX_WEIGHTS // np.prod(shape))} cells."
            )
        parts = []
        total = np.zeros((1 + n_shuffles, *shape))
        count = np.zeros((1 + n_shuffles, *shape))
        n_moved = 0
        for tensors in self._minibatches(
            mdata, rng.permutation(cells) if n_shuffles else cells, batch_size
        ):
            batch = tensors[keys.BATCH][:, 0].cpu().numpy()
            orders = [_shuffle_within(batch, rng) for _ in range(n_shuffles)]
            n_moved += sum(int((order != torch.arange(len(order))).sum()) for order in orders)
            # One order at a time: the weights of all of them would be gigabytes.
            drawn = self.module.cross_attention(tensors, query, key, orders)
            for order, each in enumerate(drawn):
                if keep and not order:
                    parts.append(each.cpu().numpy())
                total[order] += each.nan_to_num().sum(0).cpu().numpy()
                count[order] += (~each.isnan()).sum(0).cpu().numpy()
        if keep:
            return np.concatenate(parts), []
        if n_moved < 0.5 * n_shuffles * len(cells):
            warnings.warn(
                "More than half of the cells were paired with themselves in the baseline, since few "
                "of their batch were in a minibatch: it says little. Choose a larger `batch_size`.",
                UserWarning,
                stacklevel=3,
            )
        mean = _ratio(total, count).astype(np.float32)
        return mean[:1], [draw[None] for draw in mean[1:]]

    def _attention_table(self, query, key, groups, observed, null) -> pd.DataFrame:
        """Long table of features from token weights ``(n_groups, q, k)``."""
        columns = {"weight": observed}
        if len(null):
            draws, known = np.stack(null), ~np.isnan(observed)
            n_draws = (~np.isnan(draws)).sum(0)
            columns["baseline"] = baseline = _ratio(np.nansum(draws, 0), n_draws)
            spread = np.sqrt(_ratio(np.nansum((draws - baseline) ** 2, 0), n_draws))
            columns["zscore"] = (observed - baseline) / np.maximum(spread, 1e-12)
            extreme = np.abs(draws - baseline) >= np.abs(observed - baseline)
            pvalue = np.where(known, (1 + extreme.sum(0)) / (1 + n_draws), np.nan)
            columns["pvalue"], columns["padj"] = pvalue, np.full_like(pvalue, np.nan)
            columns["padj"][known] = false_discovery_control(pvalue[known])
        rows, cols = self._tokens_of(query), self._tokens_of(key)
        at = np.ix_(rows.to_numpy(), cols.to_numpy())
        pairs = pd.MultiIndex.from_product([rows.index, cols.index], names=["query", "key"])
        tables = []
        for g, group in enumerate(groups):
            table = pairs.to_frame(index=False)
            if group is not None:
                table["group"] = pd.Categorical([group] * len(table), categories=groups)
            table["query_token"] = np.repeat(rows.to_numpy(), len(cols))
            table["key_token"] = np.tile(cols.to_numpy(), len(rows))
            for name, values in columns.items():
                table[name] = values[g][at].ravel()
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def _tokens_of(self, modality: str) -> pd.Series:
        """Token of every feature."""
        tokens = self.module.encoders[modality].tokens
        place = (tokens.position // tokens.token_size).cpu().numpy()
        return pd.Series(place, index=self.feature_names(modality))


def _group_means(weights: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Means ``(n_groups, q, k)`` of weights by cell, NaN left out; NaN where all are."""
    flat = weights.reshape(len(weights), -1)
    known = ~np.isnan(flat)
    means = _ratio(member @ np.nan_to_num(flat), member @ known.astype(np.float32))
    return means.reshape(len(member), *weights.shape[1:])


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Means of that many values, NaN of none."""
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _shuffle_within(batch: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Permutation of the cells of a minibatch that keeps every cell in its batch."""
    order = np.arange(len(batch))
    for code in np.unique(batch):
        members = np.flatnonzero(batch == code)
        order[members] = rng.permutation(members)
    return torch.as_tensor(order)
