"""Shares of cell states in samples, and which of them tell two groups of samples apart."""

from __future__ import annotations

import pandas as pd
from scipy.stats import false_discovery_control, mannwhitneyu
from sklearn.metrics import roc_auc_score

from mumask.data import category_name, category_names


def cell_state_proportions(obs: pd.DataFrame, sample_key: str, state_key: str) -> pd.DataFrame:
    """Share of every cell state in every sample.

    Parameters
    ----------
    obs
        ``mdata.obs``, or any table with a row per cell.
    sample_key
        Column with the sample (donor, patient) of each cell.
    state_key
        Column with its state: predicted labels or clusters.

    Returns
    -------
    Data frame of samples x states; rows sum to 1. A state that a sample lacks is 0.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If cells have no sample or state.

    Examples
    --------
    >>> shares = mumask.tl.cell_state_proportions(mdata.obs, "batch", "cell_type")
    >>> shares.shape
    (3, 3)
    >>> bool(np.allclose(shares.sum(axis=1), 1))
    True
    """
    for argument, key in (("sample_key", sample_key), ("state_key", state_key)):
        _check_column(obs, key, argument)
    table = pd.crosstab(obs[sample_key].to_numpy(), obs[state_key].to_numpy(), normalize="index")
    table.index.name, table.columns.name = sample_key, state_key
    return table


def cell_state_auroc(
    obs: pd.DataFrame, sample_key: str, state_key: str, group_key: str, positive: str
) -> pd.DataFrame:
    """How well the share of each cell state tells two groups of samples apart.

    The unit is the sample: however many cells it has, it counts once. This is the analysis of
    sepsis in scMMAE, where the shares of two states separated patients from controls.

    Parameters
    ----------
    obs
        ``mdata.obs``, or any table with a row per cell.
    sample_key, state_key
        Columns with the sample and the state of each cell.
    group_key
        Column with one of two groups, the same in all cells of a sample.
    positive
        The group to detect, such as ``"sepsis"``.

    Returns
    -------
    Data frame with a row per state, the most telling first: ``auroc`` (above 0.5: more of the
    state in `positive`; below: less), ``mean_positive`` and ``mean_negative`` (mean shares),
    ``pval`` (Mann-Whitney) and ``pval_adj`` (Benjamini-Hochberg). Shares of one sample sum to 1,
    so a state that grows makes others shrink.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If there are not two groups, `positive` is none of them, a sample is in both, or values
        are missing.

    References
    ----------
    Meng et al., scMMAE, Briefings in Bioinformatics (2025).

    Examples
    --------
    >>> donors = [f"d{i}" for i in range(6)]
    >>> obs = pd.DataFrame({"donor": np.repeat(donors, 20), "state": rng.choice(["A", "B"], 120)})
    >>> obs["group"] = np.where(obs["donor"] < "d3", "sepsis", "control")
    >>> table = mumask.tl.cell_state_auroc(obs, "donor", "state", "group", positive="sepsis")
    >>> bool(table["auroc"].between(0, 1).all())
    True
    """
    shares = cell_state_proportions(obs, sample_key, state_key)
    _check_column(obs, group_key, "group_key")
    pairs = pd.DataFrame(
        {"sample": category_names(obs[sample_key]), "group": category_names(obs[group_key])}
    )
    pairs = pairs.drop_duplicates()
    if (twice := pairs["sample"].duplicated()).any():
        raise ValueError(
            f"`group_key`: sample {pairs['sample'][twice].iloc[0]!r} has cells of several "
            f"{group_key!r}. A sample must be in one group."
        )
    names = sorted(pairs["group"].unique())
    if len(names) != 2:
        raise ValueError(
            f"`group_key`: {group_key!r} has {len(names)} groups, {names}; two are needed. Take "
            "the cells of two, or join groups first."
        )
    positive = category_name(positive)
    if positive not in names:
        raise ValueError(f"`positive`: {positive!r} is no {group_key!r}; they are {names}.")
    group = pairs.set_index("sample")["group"].reindex(category_names(shares.index.to_series()))
    case = (group == positive).to_numpy()
    rows = {
        state: {
            "auroc": roc_auc_score(case, share),
            "mean_positive": share[case].mean(),
            "mean_negative": share[~case].mean(),
            "pval": mannwhitneyu(share[case], share[~case]).pvalue,
        }
        for state, share in shares.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = state_key
    table["pval_adj"] = false_discovery_control(table["pval"])
    order = (table["auroc"] - 0.5).abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order]


def _check_column(obs: pd.DataFrame, key: str, argument: str) -> None:
    if not isinstance(obs, pd.DataFrame):
        raise TypeError(f"`obs` is a {type(obs).__name__}, not a data frame: pass its obs.")
    if key not in obs:
        raise KeyError(f"`{argument}`: {key!r} is not in obs; it has {list(obs)}.")
    if (missing := obs[key].isna()).any():
        raise ValueError(f"`{argument}`: {key!r} is missing (NaN) in {missing.sum()} cells.")
