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


def check_order(one, other) -> None:
    """Two tables with a row per cell do not list the same cells in another order.

    The levels of a MuData may, and values are compared row by row.
    """
    names = [table.index for table in (one, other) if isinstance(table, pd.Series | pd.DataFrame)]
    if len(names) == 2 and not names[0].equals(names[1]):
        same = len(names[0]) == len(names[1]) and names[0].isin(names[1]).all()
        if same and names[0].is_unique:
            raise ValueError(
                "The two tables list the same cells in another order; put the second in that of the "
                "first: second.loc[first.index]."
            )
