"""Runs one method on one problem, in its own process and perhaps its own environment.

``python -m benchmarks.worker FOLDER``: reads ``job.json`` and ``problem/``, writes ``outputs/`` and
``result.json``. Needs no more than :mod:`benchmarks.problem` and what the method itself imports.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import resource
import sys
import time
import traceback
import warnings
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from .problem import Problem, save_outputs


class Job:
    """What a method needs to know of its run, and where it reports the cost.

    Attributes
    ----------
    seed
        Seed of the run.
    settings
        Arguments that differ from the defaults, by step (``"model"``, ``"train"``, ...).
    max_epochs
        Epochs to cut training to; None for the method's own default.
    seconds, cpu_seconds
        Time spent within :meth:`timed`: training, without reading, inference and scoring. Of the two,
        that of the processor says more on a machine that others use too.
    epochs
        Epochs trained, set by the method.
    notes
        What a reader of the figures should know, set by the method.
    """

    def __init__(self, seed: int = 0, settings: dict | None = None, max_epochs: int | None = None):
        self.seed, self.settings, self.max_epochs = seed, settings or {}, max_epochs
        self.seconds, self.cpu_seconds, self.epochs, self.notes = 0.0, 0.0, None, []

    def options(self, step: str, **defaults) -> dict:
        """Arguments of one step."""
        return {**defaults, **self.settings.get(step, {})}

    def epochs_option(self, name: str = "max_epochs") -> dict:
        """``{name: n}`` if training is cut short, else nothing, which leaves the default."""
        return {} if self.max_epochs is None else {name: self.max_epochs}

    @contextmanager
    def timed(self):
        """Count the time of the block as training."""
        start, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
            self.cpu_seconds += time.process_time() - cpu

    def seed_everything(self) -> None:
        random.seed(self.seed)
        np.random.seed(self.seed)


def peak_mib() -> float:
    """Highest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux hands ru_maxrss of the parent on to the child
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def run(folder: Path) -> dict:
    """Run the job in `folder`; what went wrong is part of the result."""
    spec = json.loads((folder / "job.json").read_text())
    job = Job(spec["seed"], spec["settings"], spec["max_epochs"])
    warnings.simplefilter("ignore")
    result = {}
    try:
        problem = Problem.load(folder / "problem")
        module, function = spec["function"].split(":")
        method = getattr(importlib.import_module(f"benchmarks.methods.{module}"), function)
        for name in ("lightning.pytorch", "pytorch_lightning"):
            logging.getLogger(name).setLevel(logging.ERROR)
        job.seed_everything()
        before = peak_mib()
        outputs = method(problem, job)
        result |= {"peak_mib": round(peak_mib()), "before_mib": round(before)}
        save_outputs(outputs, folder / "outputs")
    except Exception as error:  # noqa: BLE001 - a method that fails is a result
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {error}".strip()
    try:
        result["version"] = version(spec["package"])
    except PackageNotFoundError:
        result["version"] = None
    result |= {"seconds": round(job.seconds, 2), "cpu_seconds": round(job.cpu_seconds, 2)}
    result |= {"epochs": job.epochs, "notes": job.notes}
    (folder / "result.json").write_text(json.dumps(result))
    return result


if __name__ == "__main__":
    run(Path(sys.argv[1]))
