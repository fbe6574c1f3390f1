"""MaskedVAE with its defaults: registered, trained, asked."""

from __future__ import annotations

import scvi

import mumask

from . import ours


def run(problem, job):
    scvi.settings.seed = job.seed
    mdata, setup = ours.prepare(problem, job)
    mumask.MaskedVAE.setup_mudata(mdata, **setup)
    model = mumask.MaskedVAE(mdata, **job.options("model"))
    options = job.options("train", enable_progress_bar=False, **job.epochs_option())
    if job.settings.get("random_panels"):
        options["input_masks"] = {"rna": ours.random_panel}
    with job.timed():
        model.train(**options)
    job.epochs = len(model.history["train_loss"])
    return ours.answers(problem, job, model, mdata)
