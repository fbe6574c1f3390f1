"""The table of the README, from the records of the benchmark page: ``python -m benchmarks.readme_table``."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pandas as pd

from .in_brief import OURS, rivals
from .methods import METHODS
from .records import RESULTS, latest, read
from .report import table_of
from .tasks import TASKS

README = Path(__file__).parents[1] / "README.md"
OTHERS = {"peer": "best published method", "baseline": "best plain baseline"}
BLOCK = re.compile(r"(<!-- benchmarks: .*? -->\n).*?(<!-- benchmarks end -->)", re.DOTALL)
# What each task is about, in words, and the one score that answers it.
QUESTIONS = (
    ("T1", "ari", "paired RNA and protein: clusters"),
    ("T1b", "macro_f1", "paired RNA and protein: cell types from 30 % of the labels"),
    ("T2", "transfer", "mosaic: cell types carried from RNA cells to protein cells"),
    ("T2", "entropy", "mosaic: mixing of batches"),
    ("T3", "macro_f1", "RNA-only query: cell types"),
    ("T3", "mSCC", "RNA-only query: generated proteins"),
    ("T3b", "aPCC", "query of another experiment: generated proteins"),
    ("T4", "ari", "paired RNA and chromatin: clusters"),
    ("T4b", "rna_mSCC", "unpaired RNA and chromatin: generated RNA"),
    ("T5", "mSCC", "spatial panel: imputed genes"),
    ("T5b", "mSCC", "sequenced nuclei: imputed genes"),
)


def rows(records: list[dict]) -> list[str]:
    """The table as lines of Markdown; nothing where nothing was recorded.

    Left out as rivals: methods whose training was cut short, and circular references. They are on
    the benchmark page, with the reason.
    """
    runs = [run for run in latest(records) if "max_epochs" not in run["settings"]]
    heads = ["task", "score", *(f"`{name}`" for name in OURS), *OTHERS.values()]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " --- |" * (len(heads) - 2)]
    for name, score, question in QUESTIONS:
        task = TASKS[name]
        table = table_of(task, [run for run in runs if run["task"] == name])
        if len(table):
            cells = _cells(table[table[score].notna()], task, score)
            lines.append(f"| {question} | {task.columns[score]} | " + " | ".join(cells) + " |")
    return lines if len(lines) > 2 else []


def _cells(table: pd.DataFrame, task, score: str) -> list[str]:
    """Ours, then the best of each other group; bold is the best of all, where there is a rival."""
    sign, others = -1 if score in task.lower else 1, rivals(table)
    found = [table[table["method"] == name] for name in OURS]
    for group in OTHERS:
        members = others[others["group"] == group]
        found.append(members.loc[[(sign * members[score]).idxmax()]] if len(members) else members)
    known = [sign * float(row[score].iloc[0]) for row in found if len(row)]
    contest = any(map(len, found[: len(OURS)])) and any(map(len, found[len(OURS) :]))
    best = max(known) if contest else None
    cells = []
    for place, row in zip([*OURS, *OTHERS], found, strict=True):
        if not len(row):
            cells.append("not run yet" if _could_run(task, place) else "")
            continue
        value, method = float(row[score].iloc[0]), row["method"].iloc[0]
        text = f"**{value:.2f}**" if sign * value == best else f"{value:.2f}"
        cells.append(text if place in OURS else f"{text} ({method})")
    return cells


def _could_run(task, place: str) -> bool:
    """Does a method of this name or group take part in the task?"""
    return any(task.name in m.tasks and place in (m.name, m.group) for m in METHODS.values())


def fill(readme: Path = README, files: list[Path] | None = None) -> str:
    """The text of the README with the table of these records in its marked block.

    Parameters
    ----------
    readme
        Markdown file with the lines ``<!-- benchmarks: ... -->`` and ``<!-- benchmarks end -->``.
    files
        JSON lines of runs; all results by default.
    """
    records = read(files or sorted(RESULTS.glob("*.jsonl")))
    lines = rows([record for record in records if record.get("kind", "run") == "run"])
    text, n = BLOCK.subn(
        lambda block: block[1] + "\n".join(["", *lines, "", block[2]]), readme.read_text()
    )
    if n != 1:
        raise ValueError(f"{readme} has {n} blocks for the table; it needs one.")
    return text


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # medians of epochs that a baseline does not have
    README.write_text(fill())
