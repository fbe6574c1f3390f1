"""CrossAttentionMAE with its defaults: stage 1, and stage 2 where labels are shown."""

from __future__ import annotations

import scvi
from mudata import MuData

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
            # The defaults fit the head alone; only the preset has epochs that could be cut.
            cut = job.epochs_option() if "preset" in job.settings.get("model", {}) else {}
            model.finetune(**job.options("finetune", **quiet, **cut))
    return ours.answers(problem, job, model, mdata)


def without_stages(problem, job):
    """The network of a query, trained on the labels of the reference and nothing else (T3).

    What stages 1 and 2 are worth to stage 3: no masked training, no protein, no fixed embeddings;
    encoder and head learn together from the reference's RNA.
    """
    scvi.settings.seed = job.seed
    mdata, setup = ours.prepare(problem, job)
    rna = MuData({"rna": mdata["rna"]})
    rna.obs = mdata.obs.loc[rna.obs_names].copy()
    mumask.CrossAttentionMAE.setup_mudata(rna, **setup)
    model = mumask.CrossAttentionMAE(rna, **job.options("model"))
    epochs = job.max_epochs or 20
    with job.timed():
        model.train(max_epochs=0, enable_progress_bar=False)
        model.finetune(max_epochs=epochs, head_steps=0, train_size=1.0, enable_progress_bar=False)
    job.epochs = epochs
    query = mumask.CrossAttentionMAE.load_query_data(problem.query.to_mudata(), model)
    return {"query_labels": query.predict().to_numpy(str)}
