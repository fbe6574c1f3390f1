"""Names of categories, such as batches: text, however a table holds them."""

from __future__ import annotations

import numpy as np
import pandas as pd


def category_name(value) -> str:
    """A category as text; 1.0 is "1", like 1, and a gap is "nan".

    pandas turns integers into floats where a column once had gaps, as when tables are joined.
    """
    if pd.isna(value):
        return "nan"
    whole = isinstance(value, float | np.floating) and value.is_integer()
    return str(int(value) if whole else value)


def category_names(column) -> pd.Series:
    """A column of categories as text, see :func:`mumask.data.category_name`."""
    column = pd.Series(column)
    return column.astype(object).map({value: category_name(value) for value in column.unique()})
