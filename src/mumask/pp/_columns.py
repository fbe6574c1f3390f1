"""Columns of joined tables: fit for a file, and brought up to the top of a MuData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from mudata import MuData

from mumask.data import category_name


def writable(column: pd.Series) -> pd.Series:
    """A column that a file takes: no text or flags with gaps among objects, no mixtures."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _named_alike(column)
    if isinstance(column.dtype, pd.StringDtype):
        column = column.astype(object)
    if column.dtype != object:
        return column
    kind, gaps = pd.api.types.infer_dtype(column, skipna=True), column.isna().any()
    if kind == "boolean":
        return column.astype("boolean" if gaps else bool)
    if kind in ("integer", "floating", "mixed-integer-float", "empty"):
        return pd.to_numeric(column)
    if kind in ("mixed", "mixed-integer"):
        column, kind = _text(column), "string"
    return column.astype("category") if kind == "string" and gaps else column


def bring_up(
    mdata: MuData,
    top: Mapping[str, pd.DataFrame],
    sources: Sequence[pd.DataFrame],
    obs_keys: Sequence[str],
    batch_key: str,
    unlabeled: str,
) -> None:
    """Columns of obs for the top level, where what the modalities say of a cell agrees.

    Parameters
    ----------
    mdata
        The joined data, changed in place.
    top
        Batch -> its own obs at the top, its cells named as in `mdata`.
    sources
        Every obs as it was given, which knows its categories.
    obs_keys, batch_key, unlabeled
        As in :func:`mumask.pp.concat_batches`.
    """
    tables = [*top.values(), *(adata.obs for adata in mdata.mod.values())]
    names = dict.fromkeys(name for table in tables for name in table if ":" not in str(name))
    if missing := [key for key in obs_keys if key not in names]:
        raise KeyError(f"`obs_keys`: no batch has {missing}; they have {list(names)}.")
    for name in names:
        if name == batch_key:
            continue
        values = [table[name].dropna().astype(object) for table in tables if name in table]
        stacked = pd.concat(values)
        if _is_mixed(stacked):  # joined, a modality may hold text where the batch held numbers
            stacked = _text(stacked)
        by_cell = stacked.groupby(stacked.index, sort=False)
        asked = name in obs_keys
        if by_cell.nunique().max() > 1:
            if asked:
                raise ValueError(f"`obs_keys`: the modalities of a cell differ in {name!r}.")
            continue
        column = by_cell.first().reindex(mdata.obs_names)
        categories = _shared_categories([table[name] for table in sources if name in table])
        if column.isna().any():
            if not asked:
                continue
            if not pd.api.types.is_numeric_dtype(stacked.infer_objects()):
                column = column.fillna(unlabeled)
        mdata.obs[name] = _as_given(column, categories)


def _as_given(column: pd.Series, categories: pd.CategoricalDtype | None) -> pd.Series:
    """Categorical if every batch had it so, or if it is text."""
    if categories is None:
        column = writable(column.infer_objects())
        text = pd.api.types.infer_dtype(column) == "string"
        return column.astype("category") if text else column
    # the entry of the unlabelled cells comes last
    known = list(dict.fromkeys([*categories.categories, *column.dropna().unique()]))
    return writable(column.astype(pd.CategoricalDtype(known, categories.ordered)))


def _shared_categories(columns: Sequence[pd.Series]) -> pd.CategoricalDtype | None:
    """Categories of all columns, ordered if no two orders differ; None if one is not categorical."""
    if not all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
        return None
    columns = [_named_alike(column) for column in columns]
    each = [list(column.cat.categories) for column in columns]
    longest = max(each, key=len)
    # a subset of cells has lost some of the categories, but not their order
    agree = all(
        own == [value for value in longest if value in kept]
        for own, kept in zip(each, map(set, each), strict=True)
    )
    ordered = agree and all(column.cat.ordered for column in columns)
    union = list(dict.fromkeys(value for own in each for value in own))
    if _is_mixed(pd.Series(union, dtype=object)):
        return None
    return pd.CategoricalDtype(longest if ordered else union, ordered)


def _named_alike(column: pd.Series) -> pd.Series:
    """A categorical whose categories, if they are text beside numbers, are all text."""
    categories = column.cat.categories.to_series().astype(object)
    if not _is_mixed(categories):
        return column
    names = pd.unique(_text(categories))
    return _text(column.astype(object)).astype(pd.CategoricalDtype(names, column.cat.ordered))


def _is_mixed(values: pd.Series) -> bool:
    return pd.api.types.infer_dtype(values, skipna=True) in ("mixed", "mixed-integer")


def _text(values: pd.Series) -> pd.Series:
    """Every value by its name, gaps as they are."""
    return values.map(category_name, na_action="ignore")
