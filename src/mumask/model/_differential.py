"""Differential expression and abundance, by scvi-tools' Bayesian machinery."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.model.base._de_core import _de_core

from mumask.data import category_name, category_names, keys
from mumask.nn import LIKELIHOODS

from ._access import AccessMixin, cell_numbers, feature_columns

# Column of the groups that are compared; a name that no obs has.
GROUP = "_mumask_group"


class DifferentialMixin(AccessMixin):
    """Which features differ between groups of cells, in decoded values.

    The model needs ``get_normalized_expression``. A model with a posterior overrides
    :meth:`_draw_expression`; without one only the choice of cells is random.
    """

    def differential_expression(
        self,
        mdata: MuData | None = None,
        groupby: str | None = None,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        idx1: Sequence | str | None = None,
        idx2: Sequence | str | None = None,
        modality: str | None = None,
        mode: Literal["vanilla", "change"] = "change",
        delta: float | None = 0.25,
        batch_correction: bool = False,
        batchid1: Sequence[str] | None = None,
        batchid2: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        all_stats: bool = True,
        fdr_target: float = 0.05,
        batch_size: int | None = None,
        silent: bool = False,
        **kwargs,
    ) -> pd.DataFrame:
        """Differential expression, abundance of proteins or accessibility between groups.

        Groups are compared in values decoded from everything a cell has, so cells without the
        modality take part with what the model predicts for them; pass `idx1` and `idx2` to leave
        them out.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        groupby
            Column of ``mdata.obs`` with the groups.
        group1
            One or more groups, each compared by itself; all groups by default.
        group2
            Group to compare with; all other cells by default, also those in no group.
        idx1, idx2
            Instead of `groupby`: cells as numbers, booleans or names, or a query of ``mdata.obs``
            such as ``"cell_type == 'B' and age > 50"``. Without `idx2` all other cells.
        modality
            Modality to test; the first by default.
        mode
            ``"change"`` tests whether the effect is greater than `delta` (Boyeau et al., PNAS
            2023), ``"vanilla"`` which group has more (Lopez et al., Nature Methods 2018).
        delta
            Smallest effect that counts: a log2 fold change of counts and probabilities, a
            difference of real values. None estimates it.
        batch_correction
            Decode both groups as if from every batch, instead of from each cell's own.
        batchid1, batchid2
            With `batch_correction`, the batches to decode `group1` and `group2` as.
        features
            Features to test; all by default. Some 5,000 cells x features are held several times.
        all_stats
            Add statistics of the measured values.
        fdr_target
            Posterior expected false discovery rate of the column ``is_de_fdr_...``.
        batch_size
            Cells per minibatch.
        silent
            No progress bar.
        **kwargs
            Of :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`, such as
            `n_samples_overall`, `pseudocounts` or `test_mode`.

        Returns
        -------
        scvi-tools' data frame, a row per feature and comparison, the most certain first:
        ``proba_de``, ``bayes_factor``, ``scale1``, ``scale2`` (means of decoded values),
        ``lfc_mean`` and so on (``difference_mean`` for real values); with ``mode="vanilla"``
        ``proba_m1`` and ``proba_m2``, the chance that a group has more, and the features of the
        first group come first, those of the other last. Further, of the cells that
        measured a feature ``raw_mean``, ``non_zeros_proportion``, for counts also
        ``raw_normalized_mean`` (per 10,000), and their number ``n_measured``, each with 1 and 2.

        Examples
        --------
        >>> first, second = mdata.obs["cell_type"].cat.categories[:2]
        >>> table = model.differential_expression(
        ...     groupby="cell_type", group1=first, group2=second, modality="protein", silent=True
        ... )
        >>> len(table)
        12
        """
        modality = self.modalities[0] if modality is None else modality
        names = self.feature_names(modality)
        columns = feature_columns(names, features, modality)
        mdata, everything = self._cells(mdata, None)
        groups, group1, group2 = _groups(mdata.obs, groupby, group1, group2, idx1, idx2)
        given = {"batchid1": batchid1, "batchid2": batchid2}
        codes = {a: self._batch_codes(ids, a) for a, ids in given.items() if ids is not None}
        if codes and not batch_correction:
            raise ValueError(f"`{[*codes][0]}` needs `batch_correction`=True: decode as a batch.")
        # By code: in the order of a set of names, each process would draw others.
        default = list(range(len(self.batches))) if batch_correction else None
        stand_in = _OneModality(self, mdata, modality, columns, groups, batch_size)

        def sample(_, indices, transform_batch, n_samples_overall):
            cells = everything[np.random.choice(indices, n_samples_overall)]
            batch = None if transform_batch is None else self.batches[transform_batch]
            return self._draw_expression(mdata, cells, modality, columns, batch, batch_size)

        real = stand_in.support == "real"
        if real and mode == "change":
            kwargs = {"pseudocounts": 0.0, "change_fn": lambda x, y, _: x - y, **kwargs}
        table = _de_core(
            stand_in,
            sample,
            None,
            GROUP,
            group1,
            group2,
            None,
            None,
            all_stats,
            lambda _, one, two: stand_in.compare(one, two),
            names[columns],
            mode,
            *(codes.get(argument, default) for argument in given),
            delta,
            batch_correction,
            fdr_target,
            silent,
            **kwargs,
        )
        if groupby is None:
            table = table.drop(columns=["comparison", "group1", "group2"])
        return table.rename(columns=lambda c: c.replace("lfc_", "difference_")) if real else table

    def _draw_expression(
        self, mdata, cells, modality, columns, transform_batch, batch_size
    ) -> np.ndarray:
        """Decoded values of `cells` (with repeats), shape ``(len(cells), len(columns))``."""
        unique, back = np.unique(cells, return_inverse=True)
        table = self.get_normalized_expression(
            mdata,
            unique,
            modality=modality,
            transform_batch=transform_batch,
            features=self.feature_names(modality)[columns],
            batch_size=batch_size,
        )
        return table.to_numpy()[back]


class PosteriorDifferentialMixin(DifferentialMixin):
    """The same for a model whose latent space has a posterior; and differential abundance."""

    def _draw_expression(self, mdata, cells, modality, columns, transform_batch, batch_size):
        (drawn,) = self.get_normalized_expression(
            mdata,
            cells,
            modality=modality,
            transform_batch=transform_batch,
            features=self.feature_names(modality)[columns],
            library_size=float(self._state(keys.values_key(modality))["total"]),
            batch_size=batch_size,
            n_samples=1,
            return_mean=False,
        )
        return drawn

    def differential_abundance(
        self,
        mdata: MuData | None = None,
        sample_key: str | None = None,
        num_cells_posterior: int | None = None,
        dof: float | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """How dense each sample's cells are around every cell.

        The density of a sample is the mean of its cells' posteriors in the corrected latent
        space. Where samples of cases have a higher log density than those of controls, cases
        have more cells: ``table[cases].mean(axis=1) - table[controls].mean(axis=1)``.

        Parameters
        ----------
        mdata
            Data; by default those of the model.
        sample_key
            Column of ``mdata.obs`` with the samples.
        num_cells_posterior
            Most cells that make up the density of a sample; all by default.
        dof
            Degrees of freedom of Student's t instead of normal posteriors: heavier tails.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Log densities, data frame of cells x samples.

        References
        ----------
        Boyeau et al., Deep generative modeling of sample-level heterogeneity in single-cell
        genomics (MrVI), Nature Methods (2025); ``differential_abundance`` of scvi-tools.

        Examples
        --------
        >>> density = model.differential_abundance(sample_key="batch")
        >>> density.shape
        (180, 3)
        """
        mdata, cells = self._cells(mdata, None)
        samples = _column(mdata.obs, sample_key, "sample_key").astype("category")
        samples = samples.cat.remove_unused_categories()  # those of a subset of the data
        mean, variance = self.get_latent_representation(
            mdata, cells, batch_size=batch_size, return_dist=True
        )
        table = {}
        for sample in samples.cat.categories:
            own = np.flatnonzero(samples == sample)
            if num_cells_posterior is not None and len(own) > num_cells_posterior:
                own = np.random.choice(own, num_cells_posterior, replace=False)
            table[sample] = _log_density(mean, mean[own], variance[own], dof)
        return pd.DataFrame(table, index=mdata.obs_names)


class _OneModality:
    """What the differential machinery asks of a manager, for one modality of a mosaic.

    The machinery wants one matrix with a row per cell; here a group is known by the sums over the
    cells that measured a feature. And it takes its groups from obs, so it gets an obs of its own.
    """

    def __init__(self, model, mdata, modality, columns, groups: pd.Categorical, batch_size):
        self.adata = AnnData(obs=pd.DataFrame({GROUP: groups}, index=mdata.obs_names))
        self.support = LIKELIHOODS[model._state(keys.values_key(modality))["likelihood"]].support
        self._codes = np.asarray(groups.codes, dtype=np.int64)
        self._sums = self._add_up(model, mdata, modality, columns, batch_size)

    def _add_up(self, model, mdata, modality, columns, batch_size) -> np.ndarray:
        """Sums by group, ``(4, n_groups, n_features)``: values, non-zero, per 10,000, measured."""
        module, start = model.module, 0
        sums = np.zeros((4, self._codes.max() + 2, len(columns)))
        for tensors in model._minibatches(mdata, np.arange(mdata.n_obs), batch_size):
            n = len(tensors[keys.PRESENCE])
            rows = module.rows_of(tensors, modality)
            codes = torch.as_tensor(self._codes[start : start + n] + 1)[rows.cpu()]
            start += n
            if not len(rows):
                continue
            x = tensors[keys.values_key(modality)].to_dense()
            mask = module.measured(tensors, modality)
            mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
            x = x * mask
            scaled = 1e4 * x / x.sum(dim=1, keepdim=True).clamp(min=1e-12)
            for total, part in zip(sums, (x, x != 0, scaled, mask), strict=True):
                torch.from_numpy(total).index_add_(0, codes, part[:, columns].double().cpu())
        return sums  # first of the cells in no group, which "all other cells" include

    def _means(self, cells: np.ndarray) -> np.ndarray:
        """Mean value, share of non-zeros, mean per 10,000, number measured: ``(4, n_features)``."""
        totals = self._sums[:, np.unique(self._codes[cells]) + 1].sum(axis=1)
        with np.errstate(invalid="ignore"):  # what nobody measured is NaN
            return np.stack([*(totals[:3] / totals[3]), totals[3]])

    def compare(self, cells1: np.ndarray, cells2: np.ndarray) -> dict[str, np.ndarray]:
        """Statistics of the measured values of two groups."""
        names = ["raw_mean", "non_zeros_proportion", "raw_normalized_mean", "n_measured"]
        stats = {}
        for name, one, two in zip(names, self._means(cells1), self._means(cells2), strict=True):
            if name != "raw_normalized_mean" or self.support == "count":
                stats[f"{name}1"], stats[f"{name}2"] = one, two
        return stats

    def get_from_registry(self, _) -> _OneModality:
        """Itself: the machinery takes the mean over ``x[cells]``."""
        return self

    def __getitem__(self, cells) -> np.ndarray:
        return self._means(cells)[:1]


def _column(obs: pd.DataFrame, key: str | None, argument: str) -> pd.Series:
    if key is None:
        raise ValueError(f"Name a column of mdata.obs: {argument}=...; it has {list(obs)}.")
    if key not in obs:
        raise KeyError(f"`{argument}`: {key!r} is not in mdata.obs; it has {list(obs)}.")
    return obs[key]


def _groups(obs: pd.DataFrame, groupby, group1, group2, idx1, idx2):
    """Group of every cell (a categorical, NaN for none), and what to compare with what."""
    if idx1 is None:
        if idx2 is not None:
            raise ValueError("`idx2` needs `idx1`: the cells to compare with it.")
        column = _column(obs, groupby, "groupby")
        groups = pd.Categorical(category_names(column).where(column.notna()))
        known = list(groups.categories)
        if not known:
            raise ValueError(f"`groupby`: {groupby!r} is empty (NaN) in every cell.")
        chosen = known if group1 is None else group1
        chosen = [chosen] if np.isscalar(chosen) else list(chosen)
        if not chosen:
            raise ValueError(f"`group1` is empty; choose from {known}, or None for all.")
        chosen = [category_name(g) for g in chosen]
        group2 = None if group2 is None else category_name(group2)
        for argument, group in [*(("group1", g) for g in chosen), ("group2", group2)]:
            if group is not None and group not in known:
                raise ValueError(f"`{argument}`: {group!r} is no {groupby!r}; they are {known}.")
        if len(known) < 2:
            raise ValueError(f"`groupby`: {groupby!r} is {known[0]!r} in every cell.")
        if group2 is not None:
            chosen = [g for g in chosen if g != group2]
            if not chosen:
                raise ValueError(f"`group1` and `group2` are both {group2!r}.")
        return groups, chosen, group2
    if groupby is not None:
        raise ValueError("Pass either `groupby` or `idx1`, not both.")
    one = _chosen(obs, idx1, "idx1")
    two = ~one if idx2 is None else _chosen(obs, idx2, "idx2")
    if (both := one & two).any():
        raise ValueError(f"`idx1` and `idx2` share {both.sum()} cells.")
    groups = np.where(one, "one", np.where(two, "two", None))
    return pd.Categorical(groups, categories=["one", "two"]), ["one"], "two"


def _chosen(obs: pd.DataFrame, cells, argument: str) -> np.ndarray:
    """Booleans of the cells meant by numbers, booleans, names or a query."""
    if isinstance(cells, str):
        try:
            cells = obs.query(cells).index
        except Exception as error:  # of pandas, Python, numexpr
            raise ValueError(
                f"`{argument}`: {cells!r} cannot be looked up in mdata.obs, which has {list(obs)} "
                f"({error})."
            ) from error
    chosen = np.zeros(len(obs), dtype=bool)
    chosen[cell_numbers(obs.index, cells, argument)] = True
    if not chosen.any():
        raise ValueError(f"`{argument}` has no cell.")
    return chosen


def _log_density(z: np.ndarray, mean: np.ndarray, variance: np.ndarray, dof) -> np.ndarray:
    """Log density of the mixture of posteriors at the places `z`, shape ``(n,)``."""
    z, mean, variance = map(torch.as_tensor, (z, mean, variance))
    if dof is None:  # squares multiplied out, in double precision: products of matrices
        z, mean, variance = z.double(), mean.double(), variance.double()
        shape = torch.cat([-0.5 / variance, mean / variance], dim=1).T
        constant = 0.5 * (mean.square() / variance + (2 * math.pi * variance).log()).sum(dim=1)
        log_probs = lambda x: torch.cat([x.square(), x], 1) @ shape - constant
        step = 2**18 // sum(shape.shape)  # 2 MiB at a time, which the caches hold
    else:
        parts = torch.distributions.StudentT(dof, mean, variance.sqrt())
        log_probs = lambda x: parts.log_prob(x.unsqueeze(1)).sum(dim=2)
        step = 2**22 // mean.numel()  # some megabytes at a time
    blocks = [log_probs(x).logsumexp(dim=1) for x in z.split(max(1, step))]
    return (torch.cat(blocks) - math.log(len(mean))).numpy()
