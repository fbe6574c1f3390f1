"""One run: the method in a process of its own, the score in this one, one record."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import mumask

from .environments import python_of
from .methods import Method
from .problem import load_outputs
from .records import machine, now
from .tasks import Task

ROOT = Path(__file__).parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def load_scorer(path: Path):
    """The scores, shared by all methods: a file with functions of arrays."""
    spec = importlib.util.spec_from_file_location("scorer", path)
    scorer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scorer)
    return scorer


def revision() -> str | None:
    """Commit of the checkout that is measured."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return found.stdout.strip() or None


def merged(base: dict, more: dict) -> dict:
    """Settings with those of single steps joined."""
    out = {**base, **more}
    for step in base.keys() & more.keys():
        if isinstance(base[step], dict):
            out[step] = {**base[step], **more[step]}
    return out


def execute(
    task: Task,
    method: Method,
    seed: int,
    data: Path,
    scorer,
    settings: dict | None = None,
    max_epochs: int | None = None,
    threads: int = 1,
    timeout: float | None = None,
) -> dict:
    """Run and score; a failure is a record with ``"error"``."""
    settings = merged(method.settings, settings or {})
    record = {
        "kind": "run",
        "task": task.name,
        "method": method.name,
        "group": method.group,
        "package": method.package,
        "settings": settings if max_epochs is None else {**settings, "max_epochs": max_epochs},
        "seed": seed,
        "date": now(),
        "machine": machine(threads),
    }
    if method.group == "ours":
        record |= {"version": mumask.__version__, "revision": revision()}
    problem, truth = task.build(data, seed)
    with tempfile.TemporaryDirectory() as folder:
        result = _in_process(
            Path(folder), method, problem, seed, settings, max_epochs, threads, timeout
        )
        record |= {name: value for name, value in result.items() if value not in (None, [])}
        if "error" in result:
            return record
        try:
            record["scores"] = task.score(
                scorer, problem, truth, load_outputs(Path(folder, "outputs"))
            )
        except (ValueError, KeyError, IndexError) as error:
            record["error"] = f"could not be scored: {type(error).__name__}: {error}"
    return record


def measured(module: str, arguments: list, threads: int) -> dict:
    """What a module prints as its last line, JSON, in a process with so many threads of its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **dict.fromkeys(THREADS, str(threads))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _in_process(folder, method, problem, seed, settings, max_epochs, threads, timeout) -> dict:
    try:
        python = python_of(method.environment)
    except subprocess.CalledProcessError as error:
        return {"error": f"no environment: pip ended with status {error.returncode}"}
    except FileNotFoundError:
        return {"error": f"no environment: there are no pins for {method.environment!r}"}
    problem.save(folder / "problem")
    job = {
        "function": method.function,
        "package": method.package,
        "seed": seed,
        "settings": settings,
        "max_epochs": max_epochs,
    }
    (folder / "job.json").write_text(json.dumps(job))
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads)), "PYTHONPATH": str(ROOT)}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
    command = [str(python), "-m", "benchmarks.worker", str(folder)]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=sys.stderr, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {timeout:g} s"}
    if not (folder / "result.json").is_file():
        return {"error": f"the process ended with status {done.returncode}"}
    return json.loads((folder / "result.json").read_text())
