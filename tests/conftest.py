"""Fixtures shared by all tests: a mosaic small enough to train on in seconds, built to be nasty."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch

MODALITIES = {
    "cite": ("rna", "protein"),
    "asap": ("protein", "atac"),
    "solo": ("rna",),
}
N_FEATURES = {"rna": 14, "protein": 6, "atac": 40}


def pytest_collection_modifyitems(items):
    """Tests on real data are skipped where the data are not."""
    if os.environ.get("MUMASK_DATA"):
        return
    skip = pytest.mark.skip(reason="MUMASK_DATA does not name the folder with the real data")
    for item in items:
        if "real" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets."""
    return Path(os.environ["MUMASK_DATA"])


@pytest.fixture(scope="module", autouse=True)
def seeded_module():
    """The same models in the fixtures of a module, whichever tests ran before.

    On one thread: several, beside other processes, spend most of their time waiting for each other.
    """
    torch.set_num_threads(1)
    scvi.settings.seed = 0


@pytest.fixture(autouse=True)
def quiet_and_seeded():
    """The same numbers in every run, no chatter from the trainer, and no test that silences the others."""
    level = logging.getLogger("mumask").level
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(pull_on_update|_names are not unique).*")
        yield
    assert logging.getLogger("mumask").level == level


def _values(modality: str, types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts (or peaks) with one profile per cell type; every cell has a non-zero value."""
    n = N_FEATURES[modality]
    profile = np.random.default_rng(len(modality)).gamma(0.6, 1.0, (4, n)) + 0.02
    if modality == "atac":
        values = (rng.random((len(types), n)) < 0.12 * profile[types]).astype(np.float64)
    else:
        values = rng.poisson(3 * profile[types]).astype(np.float64)
    values[np.arange(len(types)), rng.integers(0, n, len(types))] = 1.0
    return values


@pytest.fixture(scope="session")
def make_mosaic():
    """Build a mosaic: three batches with other modalities each, rows shuffled per modality."""

    def build(n: int = 30, batches=None, seed: int = 0, storage=sp.csr_matrix) -> md.MuData:
        rng = np.random.default_rng(seed)
        batches = MODALITIES if batches is None else batches
        names = [f"{batch}_{i}" for batch in batches for i in range(n)]
        obs = pd.DataFrame({"batch": np.repeat(list(batches), n)}, index=names)
        types = rng.integers(0, 4, len(names))
        obs["cell_type"] = pd.Categorical([f"type{t}" for t in types])
        obs["some_labels"] = np.where(rng.random(len(names)) < 0.4, "Unknown", obs["cell_type"])
        obs["site"] = rng.choice(["x", "y"], len(names))
        obs["donor"] = rng.choice(["d1", "d2", "d3"], len(names))
        obs["age"] = rng.normal(50, 9, len(names))
        mods = {}
        for modality in N_FEATURES:
            have = np.array([modality in batches[b] for b in obs["batch"]])
            if not have.any():
                continue
            cells = rng.permutation(np.flatnonzero(have))
            adata = ad.AnnData(
                storage(_values(modality, types[cells], rng)),
                obs=pd.DataFrame(index=obs.index[cells]),
                var=pd.DataFrame(index=[f"{modality}{j}" for j in range(N_FEATURES[modality])]),
            )
            mods[modality] = adata
        mdata = md.MuData(mods)
        for column in obs:
            mdata.obs[column] = obs[column].reindex(mdata.obs_names)
        for modality in mods:  # a stale obsmap, as left by tools that reorder a modality
            mdata.obsmap[modality] = rng.permutation(np.asarray(mdata.obsmap[modality]))
        return mdata

    return build


@pytest.fixture
def mosaic(make_mosaic) -> md.MuData:
    """90 cells in three batches."""
    return make_mosaic()


def _state_of(adata) -> dict:
    """Everything an AnnData or MuData holds, copied down to the arrays."""
    state = {
        "obs": adata.obs.copy(),
        "var": adata.var.copy(),
        "uns": {k: v for k, v in adata.uns.items() if not k.startswith("_scvi")},
    }
    for kind in ("obsm", "varm", "obsp", "layers", "obsmap", "varmap"):
        entries = getattr(adata, kind, None)
        if entries is not None:
            state[kind] = {k: _matrix_state(v) for k, v in dict(entries).items()}
    if hasattr(adata, "mod"):
        state["mod"] = {name: _state_of(mod) for name, mod in adata.mod.items()}
    else:
        state["X"] = _matrix_state(adata.X)
    return state


def _matrix_state(matrix):
    if sp.issparse(matrix):
        parts = (matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy())
        return type(matrix).__name__, *parts
    return type(matrix).__name__, np.array(matrix)


def _compare(old, new, path: str) -> None:
    assert type(old) is type(new), path
    if isinstance(old, dict):
        assert list(old) == list(new), path
        for key in old:
            _compare(old[key], new[key], f"{path}/{key}")
    elif isinstance(old, pd.DataFrame):
        pd.testing.assert_frame_equal(old, new, obj=path)
    elif isinstance(old, tuple):
        for a, b in zip(old, new, strict=True):
            _compare(a, b, path)
    elif isinstance(old, np.ndarray):
        assert old.dtype == new.dtype, path
        np.testing.assert_array_equal(old, new, err_msg=path)
    else:
        assert old == new, path


@pytest.fixture
def unchanged():
    """Take the state of a MuData; calling the result checks that it still is the same."""

    def take(mdata):
        before = _state_of(mdata)
        return lambda: _compare(before, _state_of(mdata), "mdata")

    return take


@pytest.fixture(scope="session")
def fit():
    """Register, build and briefly train a MaskedVAE."""
    from mumask import MaskedVAE

    def train(mdata, setup=None, epochs: int = 2, train=None, **model):
        MaskedVAE.setup_mudata(mdata, **{"batch_key": "batch", **(setup or {})})
        model = MaskedVAE(mdata, **{"n_latent": 4, "n_hidden": 16, **model})
        options = {"enable_progress_bar": False, "accelerator": "cpu", **(train or {})}
        model.train(max_epochs=epochs, batch_size=32, **options)
        return model

    return train
