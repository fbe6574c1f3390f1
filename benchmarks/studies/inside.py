"""Measurements within one process: models ready to train, and what a step or a pass costs.

A process of its own for every measurement (``python -m benchmarks.studies.inside WHAT ...``) keeps the
threads and memory of one library away from the other. Prints one JSON line.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

BATCH_SIZE = 128
TRAIN_SIZE = 0.9


def _batch(problem) -> dict:
    return {"batch_key": "batch"} if problem.obs["batch"].nunique() > 1 else {}


def masked_vae(problem):
    import mumask

    mdata = problem.to_mudata()
    mumask.MaskedVAE.setup_mudata(mdata, **_batch(problem))
    return mumask.MaskedVAE(mdata)


def cross_attention_mae(problem, **options):
    import mumask

    mdata = problem.to_mudata()
    mumask.CrossAttentionMAE.setup_mudata(mdata, **_batch(problem))
    return mumask.CrossAttentionMAE(mdata, **options)


def scmmae(problem):
    return cross_attention_mae(problem, preset="scmmae")


def totalvi(problem):
    import scvi

    from benchmarks.methods.totalvi import KEYS, _mudata

    mdata = _mudata(problem)
    scvi.model.TOTALVI.setup_mudata(mdata, batch_key="batch", modalities=KEYS)
    return scvi.model.TOTALVI(mdata)


def multivi(problem):
    import scvi

    mdata = problem.to_mudata()
    mdata["rna"].obs = problem.obs.loc[mdata["rna"].obs_names].copy()
    keys = {"rna_layer": "rna", "atac_layer": "atac", "batch_key": "rna"}
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities=keys)
    return scvi.model.MULTIVI(mdata)


MODELS: dict[str, Callable] = {
    "MaskedVAE": masked_vae,
    "CrossAttentionMAE": cross_attention_mae,
    "CrossAttentionMAE scmmae": scmmae,
    "totalVI": totalvi,
    "MULTIVI": multivi,
}


def quiet() -> None:
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning", "mumask"):
        logging.getLogger(name).setLevel(logging.ERROR)


def now() -> float:
    """Seconds: of this process with one thread, so that others on the machine do not count; else real ones."""
    import torch

    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def throughput(name: str, folder: Path, epochs: int) -> dict:
    """Cells per second in training (epochs after the first) and in latent inference."""
    from benchmarks.problem import Problem

    model = MODELS[name](Problem.load(folder))
    return rates(model, epochs, now, batch_size=BATCH_SIZE, accelerator="cpu")


def rates(model, epochs: int, clock: Callable[[], float], **options) -> dict:
    """The same of a model, by the given clock; `options` are those of its training."""
    cells = model.adata.n_obs
    timer = epoch_clock(clock)
    model.train(
        max_epochs=epochs + 1,
        callbacks=[timer],
        enable_progress_bar=False,
        enable_checkpointing=False,
        early_stopping=False,
        train_size=TRAIN_SIZE,  # totalVI cannot do without validation
        **options,
    )
    model.get_latent_representation(indices=np.arange(min(1000, cells)))
    start = clock()
    model.get_latent_representation()
    return {
        "train_cells_per_s": np.ceil(TRAIN_SIZE * cells) / min(timer.seconds[1:]),
        "latent_cells_per_s": cells / (clock() - start),
    }


def steps(name: str, folder: Path, count: int) -> dict:
    """Cells per second over a few steps, for models whose epoch is too long to wait for."""
    from benchmarks.problem import Problem

    problem = Problem.load(folder)
    model = MODELS[name](problem)
    clock = step_clock()
    model.train(
        max_epochs=1,
        max_steps=count + 1,
        batch_size=BATCH_SIZE,
        callbacks=[clock],
        early_stopping=False,
        train_size=1.0,
        enable_progress_bar=False,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
    )
    return {"train_cells_per_s": BATCH_SIZE / min(clock.seconds[1:]), "steps": count}


def epoch_clock(clock: Callable[[], float] = now):
    """Callback that lists the seconds of every epoch, from its first step to its last.

    Loading of data between the steps counts, validation behind them does not.
    """
    from lightning.pytorch.callbacks import LambdaCallback

    seconds, at = [], {}

    def start(trainer, module, batch, number, *_):
        if number == 0:
            at["start"] = clock()

    def end(trainer, *_):
        if trainer.is_last_batch:
            at["end"] = clock()

    timer = LambdaCallback(
        on_train_batch_start=start,
        on_train_batch_end=end,
        on_train_epoch_end=lambda *_: seconds.append(at["end"] - at["start"]),
    )
    timer.seconds = seconds
    return timer


def step_clock():
    """Callback that lists the seconds of every training step."""
    from lightning.pytorch.callbacks import LambdaCallback

    seconds, at = [], {}
    clock = LambdaCallback(
        on_train_batch_start=lambda *_: at.update(start=now()),
        on_train_batch_end=lambda *_: seconds.append(now() - at["start"]),
    )
    clock.seconds = seconds
    return clock


def main() -> None:
    """``WHAT NAME FOLDER COUNT THREADS``."""
    import torch

    what, name, folder, count, threads = sys.argv[1:6]
    quiet()
    torch.set_num_threads(int(threads))
    measure = {"throughput": throughput, "steps": steps}[what]
    print(json.dumps(measure(name, Path(folder), int(count))))


if __name__ == "__main__":
    main()
