"""What comes back from a model goes on in muon and scanpy, on a mosaic, and through a file."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext

import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib import pyplot as plt

from mumask import MaskedVAE
from mumask.datasets import simulate_mosaic

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import muon as mu


@pytest.fixture(scope="module")
def results():
    """A mosaic with everything the package adds to it."""
    mdata = simulate_mosaic(60, n_features={"rna": 100, "protein": 20, "atac": 150})
    MaskedVAE.setup_mudata(mdata, batch_key="batch", labels_key="cell_type")
    model = MaskedVAE(mdata)
    model.train(max_epochs=15, enable_progress_bar=False, accelerator="cpu")
    mdata.obsm["X_mumask"] = model.get_latent_representation()
    mdata.obs = mdata.obs.join(model.annotate())
    mdata.obsm["mumask_probability"] = model.predict(soft=True).to_numpy()
    mdata.uns["mumask_classes"] = model.classes
    # the four lines of docs/applications/downstream.md
    sc.pp.neighbors(mdata, use_rep="X_mumask")
    sc.tl.umap(mdata)
    sc.tl.leiden(mdata, flavor="igraph", n_iterations=2)
    return mdata


def test_the_graph_is_that_of_the_joint_latent_space(results):
    assert results.obsp["connectivities"].shape == (180, 180)
    assert results.obsm["X_umap"].shape == (180, 2)
    assert results.obs["leiden"].nunique() > 1
    # cells of a type are neighbours across batches that share no modality
    kinds, batch = results.obs["cell_type"].to_numpy(), results.obs["batch"].to_numpy()
    rows, columns = results.obsp["connectivities"].nonzero()
    assert (kinds[rows] == kinds[columns]).mean() > 0.6
    assert (batch[rows] != batch[columns]).mean() > 0.3


def test_the_graph_of_many_cells():
    """What scanpy does from 8,192 cells on: its versions do not suit each one of pynndescent.

    In a process of its own, where numba compiles nothing: that would take half a minute.
    """
    code = """
import anndata, numpy as np, scanpy as sc
cells = anndata.AnnData(obsm={"X_mumask": np.random.default_rng(0).normal(size=(60, 10))})
sc.pp.neighbors(cells, 5, use_rep="X_mumask", transformer="pynndescent")
print(*cells.obsp["connectivities"].shape)
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["60", "60"], done.stderr


@pytest.mark.parametrize("basis", ["X_umap", "X_mumask"])
def test_muon_draws_it(results, basis):
    color = ["leiden", "mumask_label", "mumask_uncertainty", "rna:gene3", "protein1"]
    mu.pl.embedding(results, basis=basis, color=color, show=False)
    plt.close("all")


def test_what_muon_itself_cannot_do():
    """If this fails, muon has learned it: then docs/applications/downstream.md can say so."""
    assert "use_rep" not in inspect.signature(mu.pp.neighbors).parameters


def test_clusters_are_described_by_every_modality(results):
    from mumask.tl import rank_markers

    for modality in results.mod:
        markers = rank_markers(results, "leiden", modality, n_top=3)
        assert set(markers["group"]) <= set(results.obs["leiden"])


def test_a_file_keeps_everything(results, tmp_path):
    results.write(tmp_path / "results.h5mu")
    again = mudata.read_h5mu(tmp_path / "results.h5mu")
    # mudata may list the cells in another order when it reads; every entry goes with its cell
    order = again.obs_names.get_indexer(results.obs_names)
    for key in ("X_mumask", "X_umap", "mumask_probability"):
        np.testing.assert_array_equal(again.obsm[key][order], results.obsm[key])
    assert list(again.uns["mumask_classes"]) == list(results.obs["cell_type"].cat.categories)
    for key in ("mumask_label", "mumask_new_type", "mumask_novelty", "mumask_uncertainty"):
        assert list(again.obs[key].iloc[order]) == list(results.obs[key])
    distances = again.obsp["distances"][order][:, order]
    assert abs(distances - results.obsp["distances"]).max() == 0


def test_tables_in_a_file_need_an_option(tmp_path):
    """mudata before 0.4 reads a mosaic with a data frame in obsm only with this option."""
    mdata = simulate_mosaic(20, n_features={"rna": 50, "protein": 5, "atac": 50})
    table = pd.DataFrame({"a": np.arange(mdata.n_obs)}, index=mdata.obs_names)
    mdata.obsm["table"] = table
    mdata.write(tmp_path / "table.h5mu")
    gone = not hasattr(mudata, "set_options")
    with nullcontext() if gone else mudata.set_options(pull_on_update=False):
        again = mudata.read_h5mu(tmp_path / "table.h5mu")
    pd.testing.assert_frame_equal(again.obsm["table"], table, check_dtype=False)


def test_a_completed_mudata_is_one_for_muon(results, tmp_path):
    """Nothing is missing in it, so tools that need every cell in every modality have all."""
    MaskedVAE.setup_mudata(results, batch_key="batch")
    model = MaskedVAE(results)
    model.train(max_epochs=2, enable_progress_bar=False, accelerator="cpu")
    complete = model.impute()
    mu.pp.intersect_obs(complete)
    assert complete.n_obs == 180
    for adata in complete.mod.values():
        assert adata.n_obs == 180
    complete.write(tmp_path / "complete.h5mu")
    again = mudata.read_h5mu(tmp_path / "complete.h5mu")
    np.testing.assert_array_equal(again["atac"].X, complete["atac"].X)
    assert again["atac"].obs["imputed"].sum() == 120
