"""Covariates as vectors, with categories that can be added later."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class GrowingEmbedding(nn.Module):
    """Embedding of categories of which the first can be frozen for good.

    After :meth:`freeze_first`, known rows and new rows are parameters of their own, so that no
    optimiser setting (momentum, weight decay) can move a known row. A state dict always holds one
    table ``weight``, whatever the split.

    Parameters
    ----------
    n_categories
        Number of categories.
    n_out
        Length of a vector.
    """

    def __init__(self, n_categories: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_categories, n_out) * 0.1)
        self.new = None
        self.register_state_dict_post_hook(self._join)

    def freeze_first(self, n_known: int) -> None:
        """Freeze the first `n_known` rows; the others stay trainable."""
        table = self.table().detach()
        self.weight = nn.Parameter(table[:n_known].clone(), requires_grad=False)
        self.new = nn.Parameter(table[n_known:].clone()) if n_known < len(table) else None

    def table(self) -> torch.Tensor:
        """All rows, shape ``(n_categories, n_out)``."""
        return self.weight if self.new is None else torch.cat([self.weight, self.new])

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Rows of the given codes, shape ``(B, n_out)``."""
        return F.embedding(codes, self.table())

    @staticmethod
    def _join(module, state_dict, prefix, _) -> None:
        new = state_dict.pop(f"{prefix}new", None)
        if new is not None:
            state_dict[f"{prefix}weight"] = torch.cat([state_dict[f"{prefix}weight"], new])

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        key, n_known = f"{prefix}weight", len(self.weight)
        if self.new is not None and key in state_dict:
            table = state_dict[key]
            state_dict = {**state_dict, key: table[:n_known], f"{prefix}new": table[n_known:]}
        super()._load_from_state_dict(state_dict, prefix, *args)


class Covariates(nn.Module):
    """Auxiliary information as a vector: ``E = W_E * input2`` (embedding layer of the paper).

    One embedding per categorical covariate, batch first, and one linear map for the continuous
    ones; their sum is the vector. An embedding per covariate can grow by rows of its own when a
    query brings new categories.

    Parameters
    ----------
    n_categories
        Number of categories of each categorical covariate.
    n_continuous
        Number of continuous covariates.
    n_out
        Length of the vector.
    """

    def __init__(self, n_categories: Sequence[int], n_continuous: int, n_out: int):
        super().__init__()
        self.embeddings = nn.ModuleList(GrowingEmbedding(n, n_out) for n in n_categories)
        self.linear = nn.Linear(n_continuous, n_out, bias=False) if n_continuous else None

    def forward(self, categories: torch.Tensor, continuous: torch.Tensor | None) -> torch.Tensor:
        """Sum of the parts, shape ``(B, n_out)``.

        Parameters
        ----------
        categories
            Codes of shape ``(B, n_categorical)``.
        continuous
            Values of shape ``(B, n_continuous)``, or None.
        """
        total = sum(emb(codes) for emb, codes in zip(self.embeddings, categories.T, strict=True))
        return total if self.linear is None else total + self.linear(continuous)
