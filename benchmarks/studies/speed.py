"""Speed beside the peers: ratios within one run on one machine, the methods taking turns."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import typer

from benchmarks.records import append, machine, now
from benchmarks.runs import measured
from benchmarks.tasks import TASKS

from .inside import BATCH_SIZE

# Ours, the other, the task whose data both train on, and what is measured how often.
COMPARISONS = {
    "totalVI": ("MaskedVAE", "totalVI", "T1", "throughput", {"MaskedVAE": 3, "totalVI": 1}),
    "MULTIVI": ("MaskedVAE", "MULTIVI", "T4", "throughput", {"MaskedVAE": 3, "MULTIVI": 1}),
    "scmmae": (
        "CrossAttentionMAE",
        "CrossAttentionMAE scmmae",
        "T1",
        "steps",
        {"CrossAttentionMAE": 20, "CrossAttentionMAE scmmae": 2},
    ),
}


def compare(data: Path, out: Path, repeats: int, chosen: list[str] | None) -> None:
    """Measure every pair with one thread and with all, `repeats` times in turns.

    The best of the repeats is kept for either side: whatever else runs on a shared machine only
    ever slows a measurement down. The medians are recorded too.
    """
    for title in chosen or COMPARISONS:
        ours, other, task, what, counts = COMPARISONS[title]
        problem, _ = TASKS[task].build(data, 0)
        with tempfile.TemporaryDirectory() as folder:
            problem.save(Path(folder, "problem"))
            for threads in sorted({1, os.cpu_count() or 1}):
                found = {ours: [], other: []}
                for _ in range(repeats):
                    for name in found:
                        arguments = [what, name, str(Path(folder, "problem")), str(counts[name])]
                        found[name].append(
                            measured("benchmarks.studies.inside", [*arguments, threads], threads)
                        )
                record = {
                    "kind": "speed",
                    "comparison": title,
                    "task": task,
                    "cells": len(problem.obs),
                    "batch_size": BATCH_SIZE,
                    "what": what,
                    "repeats": repeats,
                    "date": now(),
                    "machine": machine(threads),
                    "ours": ours,
                    "other": other,
                    "best": {name: _over(rows, np.max) for name, rows in found.items()},
                    "median": {name: _over(rows, np.median) for name, rows in found.items()},
                }
                append(out, record)
                best = record["best"]
                typer.echo(
                    f"{title}, {threads} thread(s): "
                    + ", ".join(
                        f"{quantity} {best[ours][quantity]:.0f} against {best[other][quantity]:.0f}"
                        for quantity in best[ours]
                        if quantity.endswith("per_s")
                    )
                )


def _over(rows: list[dict], function) -> dict:
    return {name: float(function([row[name] for row in rows])) for name in rows[0]}
