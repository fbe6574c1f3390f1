"""JSON lines: one per run, appended as they finish."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def machine(threads: int) -> dict:
    """The machine in general words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "architecture": platform.machine(),
        "threads": threads,
    }


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")


def rounded(value):
    """Numbers with five digits: enough for every figure, and quiet in a diff."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return value


def append(path: Path, record: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(rounded(record)) + "\n")


def read(paths: Iterable[Path]) -> list[dict]:
    """All records, in the order of the files."""
    return [
        json.loads(line)
        for path in paths
        for line in Path(path).read_text().splitlines()
        if line.strip()
    ]


def key(record: dict) -> tuple:
    """What makes two records the same run."""
    settings = json.dumps(record.get("settings", {}), sort_keys=True)
    return record["task"], record["method"], record["seed"], settings


def latest(records: Iterable[dict]) -> list[dict]:
    """The last record of every run; a later one replaces an earlier one."""
    return list({key(record): record for record in records}.values())
