"""CrossAttentionMAE with its defaults: stage 1, and stage 2 where labels are shown."""

from __future__ import annotations

import scvi

import mumask

from . import ours


def run(problem, job):
    scvi.settings.seed = job.seed
    mdata, setup = ours.prepare(problem, job)
    mumask.CrossAttentionMAE.setup_mudata(mdata, **setup)
    model = mumask.CrossAttentionMAE(mdata, **job.options("model"))
    quiet = {"enable_progress_bar": False}
    train = job.options("train", **quiet, **job.epochs_option())
    with job.timed():
        if not train.pop("pretrain", True):
            train["max_epochs"] = 0  # the model as it starts
        model.train(**train)
        job.epochs = len(model.history["train_loss"]) if train.get("max_epochs") != 0 else 0
        if "labels_key" in setup:
            model.finetune(**job.options("finetune", **quiet, **job.epochs_option()))
    return ours.answers(problem, job, model, mdata)
