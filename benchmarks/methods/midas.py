"""MIDAS with the settings of its quick start, or with those it names for real data."""

from __future__ import annotations

import tempfile

import scmidas


def run(problem, job):
    mdata = problem.to_mudata()
    for name in problem.blocks:
        mdata.mod[name].obs["batch"] = mdata.obs["batch"].loc[mdata.mod[name].obs_names].astype(str)
    if "protein" in mdata.mod:
        mdata.mod["adt"] = mdata.mod.pop("protein")
        mdata.update()
    options = job.options("train", **job.epochs_option())
    with tempfile.TemporaryDirectory() as folder, job.timed():
        model = scmidas.integrate(
            mdata, accelerator="cpu", seed=job.seed, save_model_path=folder, **options
        )
    job.epochs = options.get("max_epochs", 65)
    return {"latent": model.get_latent_representation(mdata)}
