"""The first table of the page: on how many scores of a task ours are ahead of everyone else."""

from __future__ import annotations

import pandas as pd

from .tasks import TASKS

OURS = ("MaskedVAE", "CrossAttentionMAE")
HEAD = """## In brief

On how many scores of a task the defaults are better than every peer and every plain baseline, by medians, and who is
as good or better elsewhere. Circular references are no rivals."""


def in_contest(table: pd.DataFrame) -> pd.DataFrame:
    """The methods of a task that are not given the answer."""
    return table[[not any("circular" in note for note in notes) for notes in table["notes"]]]


def rivals(table: pd.DataFrame) -> pd.DataFrame:
    """Peers and baselines among them."""
    return in_contest(table)[lambda methods: methods["group"] != "ours"]


def brief_section(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Heading and table.

    Parameters
    ----------
    tables
        By name of a task, medians by method.
    """
    rows = [
        f"| {name} | {method} | {ahead(table, TASKS[name], method)} |"
        for name, table in tables.items()
        for method in OURS
        if method in set(table["method"]) and len(rivals(table))
    ]
    head = ["| task | method | ahead on | not ahead on |", "| --- | --- | --- | --- |"]
    return ["\n".join([HEAD, "", *head, *rows])] if rows else []


def ahead(table: pd.DataFrame, task, method: str) -> str:
    """Two cells: how many scores of how many, and the others with the best rival of each."""
    ours, others = table[table["method"] == method].iloc[0], rivals(table)
    count, won, lost = 0, 0, []
    for name, label in task.columns.items():
        known = others[others[name].notna()]
        if pd.isna(ours[name]) or not len(known):
            continue
        sign = -1 if name in task.lower else 1
        best = known.loc[(sign * known[name]).idxmax()]
        count += 1
        if sign * ours[name] > sign * best[name]:
            won += 1
        else:
            lost.append(f"{label} {ours[name]:.3f}, {best['method']} {best[name]:.3f}")
    return f"{won} of {count} | {'; '.join(lost)}"
