"""Both models and two peers on one GPU: cells per second, use of the device, and mixed precision."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import typer

from benchmarks.records import append, now
from benchmarks.tasks import TASKS

from .inside import BATCH_SIZE, MODELS, quiet, rates

LARGE_BATCH = 1024
PRECISIONS = ("32-true", "bf16-mixed")
ON_GPU = {"accelerator": "gpu", "devices": 1}
# Model, task whose data it trains on, size of the minibatches, precision, epochs.
MEASURED = (
    *(
        ("MaskedVAE", t, b, p, 4)
        for t in ("T1", "T4")
        for b in (BATCH_SIZE, LARGE_BATCH)
        for p in PRECISIONS
    ),
    *(("CrossAttentionMAE", "T1", b, p, 2) for b in (BATCH_SIZE, LARGE_BATCH) for p in PRECISIONS),
    ("totalVI", "T1", BATCH_SIZE, "32-true", 2),
    ("MULTIVI", "T4", BATCH_SIZE, "32-true", 2),
)
SCORED = tuple((name, "T1", p) for name in ("MaskedVAE", "CrossAttentionMAE") for p in PRECISIONS)


def waited() -> float:
    """Seconds, once the device has done what it was asked to."""
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


class Utilisation:
    """Share of time in which a kernel ran on the device, sampled while the block runs, in percent."""

    def __enter__(self):
        self.samples, self._over = [], threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        import torch

        while not self._over.wait(0.1):
            self.samples.append(torch.cuda.utilization())

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    @property
    def median(self) -> float | None:
        """Over the second half of the samples, when the first epoch is over."""
        later = self.samples[len(self.samples) // 2 :]
        return float(np.median(later)) if later else None


def measure(data: Path, scorer: Path, out: Path) -> None:
    """Append one record per model, size of minibatches and precision, then one per score."""
    import torch

    quiet()
    problems = {task: TASKS[task].build(data, 0) for task in ("T1", "T4")}
    about = {"device": torch.cuda.get_device_name(), "date": now()}
    for name, task, batch_size, precision, epochs in MEASURED:
        found = throughput(name, problems[task][0], batch_size, precision, epochs)
        record = {"kind": "gpu", "method": name, "task": task, "batch_size": batch_size}
        append(out, {**record, "precision": precision, **found, **about})
        typer.echo(f"{name} on {task}, {batch_size} cells, {precision}: {found}")
    with ProcessPoolExecutor(len(SCORED), mp_context=get_context("spawn")) as pool:
        waiting = []
        for name, task, precision in SCORED:
            problem, truth = problems[task]
            model, start = MODELS[name](problem), waited()
            model.train(precision=precision, enable_progress_bar=False, **ON_GPU)
            record = {"kind": "gpu_scores", "method": name, "task": task, "precision": precision}
            record |= {"seconds": waited() - start, **about}
            latent = model.get_latent_representation()
            waiting.append((record, pool.submit(score, scorer, latent, truth["label"])))
        for record, scores in waiting:
            append(out, {**record, "scores": scores.result()})
            typer.echo(f"{record['method']}, {record['precision']}: {scores.result()}")


def throughput(name: str, problem, batch_size: int, precision: str, epochs: int) -> dict:
    """Rates of a model, use of the device while it trains, and its peak memory there."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    model = MODELS[name](problem)
    with Utilisation() as used:
        found = rates(model, epochs, waited, batch_size=batch_size, precision=precision, **ON_GPU)
    memory = torch.cuda.max_memory_allocated() / 2**20
    return found | {"utilisation": used.median, "memory_mib": memory}


def score(scorer: Path, latent: np.ndarray, labels: np.ndarray) -> dict:
    """Scores of a latent space, in a process of its own."""
    from benchmarks.runs import load_scorer

    return load_scorer(scorer).cluster_scores(latent, labels)
