"""How well imputed features follow the measured ones over the cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import rankdata


def feature_correlation(
    pred, truth, *, per_feature: bool = False
) -> dict[str, float] | pd.DataFrame:
    """Correlation of imputed with measured values, feature by feature over the cells.

    Parameters
    ----------
    pred
        Imputed values, cells x features: array, DataFrame or sparse matrix.
    truth
        Measured values of the same cells and features, in the same order. Pearson depends on the
        scale: the usual one is ``log1p`` of counts on both sides.
    per_feature
        Return the correlation of every feature instead of their summary.

    Returns
    -------
    ``mSCC``, ``aSCC``, ``mPCC``, ``aPCC``: median (m) and average (a) over the features of the
    Spearman (SCC) and Pearson (PCC) correlation, as inClust+ and uniPort report them. With
    `per_feature` a DataFrame features x (``spearman``, ``pearson``). A feature that is constant
    on either side counts as 0: it shows no skill.

    Raises
    ------
    ValueError
        If shapes, or the labels of two DataFrames, differ, or a value is NaN.

    Examples
    --------
    >>> truth = rng.poisson(3, size=(40, 5)).astype(float)
    >>> mumask.metrics.feature_correlation(2 * truth + 1, truth)
    {'mSCC': 1.0, 'aSCC': 1.0, 'mPCC': 1.0, 'aPCC': 1.0}
    """
    names = None
    if isinstance(pred, pd.DataFrame) and isinstance(truth, pd.DataFrame):
        if not (pred.index.equals(truth.index) and pred.columns.equals(truth.columns)):
            raise ValueError(
                "pred and truth differ in cells or features; reindex one like the other."
            )
    for table in (pred, truth):
        if isinstance(table, pd.DataFrame):
            names = table.columns
    pred, truth = _dense(pred), _dense(truth)
    if pred.shape != truth.shape or pred.ndim != 2:
        raise ValueError(f"Need two tables of one shape, got {pred.shape} and {truth.shape}.")
    if not (np.isfinite(pred).all() and np.isfinite(truth).all()):
        raise ValueError(
            "NaN or infinite values: score only cells in which the feature was measured."
        )
    pearson = _columnwise(pred, truth)
    spearman = _columnwise(rankdata(pred, axis=0), rankdata(truth, axis=0))
    if per_feature:
        return pd.DataFrame({"spearman": spearman, "pearson": pearson}, index=names)
    return {
        "mSCC": float(np.median(spearman)),
        "aSCC": float(spearman.mean()),
        "mPCC": float(np.median(pearson)),
        "aPCC": float(pearson.mean()),
    }


def _dense(values) -> np.ndarray:
    return np.asarray(values.toarray() if sp.issparse(values) else values, dtype=np.float64)


def _columnwise(x, y):
    """Pearson correlation of matching columns, 0 where one of them is constant."""
    constant = (x == x[:1]).all(0) | (y == y[:1]).all(0)
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    return np.where(constant, 0.0, (x * y).sum(0) / np.where(constant, 1.0, norm))
