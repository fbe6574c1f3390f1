"""The examples of the docstrings run, and every public object has one."""

from __future__ import annotations

import doctest
import functools
import importlib
import inspect
import logging
import pkgutil
import re

import matplotlib

matplotlib.use("Agg")

import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
from matplotlib import pyplot as plt

import mumask

ROOMS = [mumask.datasets, mumask.metrics, mumask.pl, mumask.pp, mumask.tl]
MODELS = {
    name: member
    for name, member in inspect.getmembers(mumask, inspect.isclass)
    if hasattr(member, "setup_mudata")
}


def find_examples() -> dict[str, doctest.DocTest]:
    """Every docstring of the package that has an example, by the name of its object."""
    found, finder = {}, doctest.DocTestFinder()
    for info in pkgutil.walk_packages(mumask.__path__, "mumask."):
        for test in finder.find(importlib.import_module(info.name), globs={}):
            if test.examples:
                found[test.name] = test
    return found


def public_objects() -> dict[str, object]:
    """What users call: functions, models, and the methods of these that are our own."""
    found = {
        f"{room.__name__}.{name}": getattr(room, name) for room in ROOMS for name in room.__all__
    }
    for model_name, model in MODELS.items():
        found[f"mumask.{model_name}"] = model
        for name, member in inspect.getmembers(model, inspect.isroutine):
            if not name.startswith("_") and member.__module__.startswith("mumask"):
                found[f"mumask.{model_name}.{name}"] = member
    return found


@pytest.mark.parametrize("name", [n for n in public_objects() if "setup_anndata" not in n])
def test_every_parameter_is_described(name):
    """By a line of its name, alone or beside others that are described with it."""
    thing = public_objects()[name]
    parameters = inspect.signature(thing).parameters.values()
    lines = [re.split(r",\s*", line.strip()) for line in (inspect.getdoc(thing) or "").splitlines()]
    described = {word.lstrip("*") for line in lines for word in line}
    missing = [
        p.name
        for p in parameters
        if p.name not in ("self", "cls", "registry", *described) and p.kind is not p.VAR_KEYWORD
    ]
    assert not missing


def model_for(name: str, test: doctest.DocTest) -> str:
    """The model that an example means: one that has its class as base, and what it calls."""
    owner, called = name.split(".")[-2], re.findall(r"\bmodel\.(\w+)\(", test.docstring)
    of_class = [
        name for name, model in MODELS.items() if owner in [base.__name__ for base in model.__mro__]
    ]
    fitting = [
        name for name in of_class or MODELS if all(hasattr(MODELS[name], call) for call in called)
    ]
    return sorted(fitting, key="MaskedVAE".__ne__)[0]


EXAMPLES, PUBLIC = find_examples(), public_objects()


@pytest.fixture(scope="module", autouse=True)
def short_trainings():
    """Two epochs unless an example says otherwise: how well it trained is not the question."""

    short = {
        "train": {"max_epochs": 2, "enable_progress_bar": False},
        "finetune": {"head_steps": 20},
    }
    with pytest.MonkeyPatch.context() as patch:
        for model in MODELS.values():
            for name, options in short.items():
                if hasattr(model, name):
                    whole = getattr(model, name)
                    patch.setattr(model, name, shortened(whole, options))
        yield


def shortened(whole, options):
    """A method with other defaults, and the docstring and name that it had."""

    @functools.wraps(whole)
    def short(self, *args, **kwargs):
        return whole(self, *args, **{**options, **kwargs})

    return short


@pytest.fixture(scope="module")
def trained():
    """A small mosaic, and every model trained on it for a moment: what the examples start from."""
    scvi.settings.seed = 0
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    mdata = mumask.datasets.simulate_mosaic(
        60, n_features={"rna": 100, "protein": 12, "atac": 150}, n_cell_types=3
    )
    models = {}
    for name, model in MODELS.items():
        model.setup_mudata(mdata, batch_key="batch", labels_key="cell_type")
        models[name] = model(mdata)
        models[name].train()
        if hasattr(model, "finetune"):
            models[name].finetune()
    return mdata, models


@pytest.fixture(scope="module")
def public_data(tmp_path_factory):
    """A folder with small stand-ins for the files that would be downloaded."""
    folder = tmp_path_factory.mktemp("public")
    design = {"n_features": {"rna": 40, "protein": 14, "atac": 60}, "n_cell_types": 3}
    kits = {"batch 1": ["rna", "protein"], "batch 2": ["rna", "atac"]}
    for file, kit in (("pbmc10k_citeseq", "batch 1"), ("mop_snareseq", "batch 2")):
        mdata = mumask.datasets.simulate_mosaic(20, {kit: kits[kit]}, **design)
        if "protein" in mdata.mod:
            names = ["CD3", "CD4", "CD8a", "CD14", "CD15", "CD16", "CD19", "CD56"]
            names += ["CD45RA", "CD45RO", "CD25", "CD127", "PD-1", "TIGIT"]
            mdata["protein"].var_names = names
            mdata.update()
        mdata.write(folder / f"{file}.h5mu")
    mumask.datasets.simulate_mosaic(20, kits, **design).write(folder / "pbmc_wnn_mosaic.h5mu")
    spatial = mumask.datasets.simulate_mosaic(20, {"section": ["rna"]}, **design)["rna"]
    spatial.obsm["spatial"] = np.random.default_rng(0).uniform(size=(20, 2))
    spatial.write(folder / "mpfc_starmap.h5ad")
    (folder / "5k_pbmc_protein_v3_filtered_feature_bc_matrix.h5").touch()
    return folder


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name, trained, public_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples may save files
    monkeypatch.setenv("MUMASK_DATA", str(public_data))
    mdata, models = trained
    test = EXAMPLES[name]
    test.globs = {
        "mumask": mumask,
        "mudata": mudata,
        "np": np,
        "pd": pd,
        "rng": np.random.default_rng(0),
        "mdata": mdata.copy(),
        "model": models[model_for(name, test)],
    }
    log = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=log.append)
    plt.close("all")
    assert runner.failures == 0, "".join(log)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_object_has_an_example(name):
    member = PUBLIC[name]
    assert f"{member.__module__}.{member.__qualname__}" in EXAMPLES
