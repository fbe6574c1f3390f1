"""A page of tables and figures from recorded runs; it computes medians and nothing else."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pandas as pd

from .figures import bubbles, scaling
from .in_brief import brief_section, in_contest
from .methods import GROUPS, METHODS
from .records import latest, read
from .studies.gpu_tables import gpu_section
from .studies.papers import papers_section
from .studies.scale_tables import out_of_core_section, scale_section
from .studies.tables import ablation_section, quality_section, roofline_section, speed_section
from .tasks import TASKS

HEAD = """# Benchmarks

Every number on this page comes from the JSON lines in `benchmarks/results/`, one per run, and the page is written by
`python -m benchmarks report`. Every method gets the same cells and is scored by the same file, in a process of its own, with the defaults
that its documentation names. Scores are medians over seeds, with the range in brackets; the best of a column is bold. Where the seed draws what is hidden (T3,
T4b, T5, T5b), it does so for every method alike. Leiden scores are taken at the resolution of best NMI, chosen with the labels and so optimistic for everyone.
Supervised scores are taken only on cells whose labels the method has not seen.

Peers run in environments of their own where they need one; their pins are in `benchmarks/environments/`. To repeat,
with the folder of the data sets in the environment variable `MUMASK_DATA` and the file of the scores beside it (or named by `--scorer FILE`):

```bash
python -m benchmarks run all --methods ours       # ours; peer, baseline and single names work too
python -m benchmarks report
```
"""


def write(files: list[Path], page: Path, figures: Path) -> None:
    """Write the page and its figures.

    Parameters
    ----------
    files
        JSON lines of runs and studies.
    page
        Markdown file.
    figures
        Folder for the figures, somewhere below the page.
    """
    by_kind = defaultdict(list)
    for record in read(files):
        by_kind[record.get("kind", "run")].append(record)
    everything = latest(by_kind["run"])
    # Ours, cut: how soon it is as good as a peer, not how good it is.
    cut = [r for r in everything if r.get("group") == "ours" and "max_epochs" in r["settings"]]
    runs = [run for run in everything if run not in cut]
    figures.mkdir(parents=True, exist_ok=True)
    parts = [HEAD, machines(runs), short(runs)]
    of_task = {name: [run for run in runs if run["task"] == name] for name in TASKS}
    tables = {name: table_of(TASKS[name], mine) for name, mine in of_task.items() if mine}
    parts += brief_section({name: table for name, table in tables.items() if len(table)})
    for name, table in tables.items():
        parts.append(section(TASKS[name], table, of_task[name], page, figures))
    parts += waiting(runs)
    parts += papers_section(runs)
    parts += ablation_section(by_kind["ablation"])
    parts += speed_section(by_kind["speed"])
    parts += quality_section(runs, cut)
    parts += gpu_section(by_kind["gpu"], by_kind["gpu_scores"])
    parts += roofline_section(by_kind["roofline"])
    if by_kind["scale"]:
        scaling(by_kind["scale"], figures / "scale.svg")
        parts += scale_section(by_kind["scale"], link(figures / "scale.svg", page))
    parts += out_of_core_section(by_kind["out_of_core"])
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(part.strip() for part in parts if part) + "\n")


def waiting(runs: list[dict]) -> list[str]:
    """What the harness could run and has no record of, so that a table's first is not overrated."""
    done = {(run["task"], run["method"]) for run in runs}
    lines = []
    for task in TASKS:
        names = [m.name for m in METHODS.values() if task in m.tasks and not m.on_request]
        if left := [name for name in names if (task, name) not in done]:
            lines.append(f"- {task}: {', '.join(left)}")
    if not lines:
        return []
    head = "## Not run yet\n\nMethods that the commands above run, and of which there is no record:"
    return ["\n".join([head, "", *lines])]


def link(figure: Path, page: Path) -> str:
    return figure.resolve().relative_to(page.resolve().parent).as_posix()


def machines(runs: list[dict]) -> str:
    """What the runs ran on, in one sentence."""
    kinds = {
        f"{m['cores']} {m['architecture']} cores, {m['memory_gib']} GiB, {m['threads']} thread(s) per run"
        for m in (run["machine"] for run in runs)
    }
    dates = sorted(run["date"][:10] for run in runs)
    if not runs:
        return ""
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return (
        f"Machine: {'; '.join(sorted(kinds))}, no GPU; {when}. The machine is shared, so the "
        "tables give processor time; methods take turns in the section on speed."
    )


def short(runs: list[dict]) -> str:
    """Which figures of peers come from training that was cut short."""
    cut = {
        (run["method"], run["task"]): run["settings"]["max_epochs"]
        for run in runs
        if "max_epochs" in run["settings"] and "error" not in run
    }
    if not cut:
        return ""
    said = ", ".join(f"{method} on {task} (to {n})" for (method, task), n in sorted(cut.items()))
    return (
        f"**Cut short** for want of time, so no claim against them is made on these tasks: {said}."
    )


def table_of(task, runs: list[dict]) -> pd.DataFrame:
    """Medians and ranges by method (and cut), in the order of the groups."""
    rows = []
    grouped = defaultdict(list)
    for run in runs:
        if "scores" in run:
            grouped[run["method"], run["settings"].get("max_epochs")].append(run)
    order = list(METHODS)
    for (method, cut), members in sorted(
        grouped.items(),
        key=lambda item: (GROUPS.index(item[1][0]["group"]), order.index(item[0][0])),
    ):
        row = {
            "method": method if cut is None else f"{method}, cut to {cut} epochs",
            "group": members[0]["group"],
            "software": f"{members[0]['package']} {members[-1].get('version')}",
            "seeds": len(members),
            "epochs": pd.Series([m.get("epochs") for m in members]).median(),
            "seconds": pd.Series([m.get("cpu_seconds", m["seconds"]) for m in members]).median(),
            "peak_mib": pd.Series([m["peak_mib"] for m in members]).median(),
            "notes": sorted({note for m in members for note in m.get("notes", [])}),
        }
        if task.name in METHODS[method].notes:
            row["notes"] = [METHODS[method].notes[task.name], *row["notes"]]
        for name in task.columns:
            found = [m["scores"][name] for m in members if isinstance(m["scores"].get(name), float)]
            row[name] = pd.Series(found).median() if found else float("nan")
            row[f"{name} range"] = (min(found), max(found)) if found else None
        rows.append(row)
    return pd.DataFrame(rows)


def section(task, table: pd.DataFrame, runs: list[dict], page: Path, figures: Path) -> str:
    """Heading, figure, table and remarks of one task."""
    lines = [f"## {task.name}: {task.title}", "", task.description, ""]
    if len(table):
        figure = figures / f"{task.name}.svg"
        if len(table) > 1:  # one method has nothing to be compared with
            bubbles(table, task, figure)
            lines += [f"![Scores of all methods on {task.name}]({link(figure, page)})", ""]
        lines += markdown(table, task)
        lines += [""] + [
            f"- {row['method']}: {'; '.join(row['notes'])}."
            for _, row in table.iterrows()
            if row["notes"]
        ]
    errors = {}
    for run in runs:
        if "error" in run:
            errors[run["method"]] = f"{run['error'][:300]}"
    lines += [
        f"- {method} ({METHODS[method].package}) could not run: `{' '.join(error.split())}`"
        for method, error in errors.items()
    ]
    return "\n".join(lines)


def markdown(table: pd.DataFrame, task) -> list[str]:
    """The table as Markdown."""
    heads = [
        "method",
        "software",
        *task.columns.values(),
        "seeds",
        "epochs",
        "training (CPU s)",
        "memory (MiB)",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    # A circular reference is no competitor and takes no bold type.
    among = in_contest(table)
    best = {
        name: (among[name].min() if name in task.lower else among[name].max())
        for name in task.columns
    }
    for _, row in table.iterrows():
        cells = [row["method"], row["software"]]
        for name in task.columns:
            cells.append(_score(row[name], row[f"{name} range"], row[name] == best[name]))
        epochs = "" if pd.isna(row["epochs"]) else f"{row['epochs']:.0f}"
        cells += [str(row["seeds"]), epochs, f"{row['seconds']:.3g}", f"{row['peak_mib']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _score(value: float, spread, best: bool) -> str:
    if pd.isna(value):
        return ""
    text = f"**{value:.3f}**" if best else f"{value:.3f}"
    low, high = spread
    return text if f"{low:.3f}" == f"{high:.3f}" else f"{text} ({low:.3f}–{high:.3f})"
