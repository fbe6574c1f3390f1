"""The scores of the demo: what is compared with what."""

import numpy as np
import pytest
from mudata import MuData

from mumask import datasets
from mumask.cli import _demo


@pytest.fixture(scope="module")
def simulated():
    sizes = {"rna": 60, "protein": 10, "atac": 80}
    return datasets.simulate_mosaic(
        50, _demo.BATCHES, sizes, panels=_demo.PANELS, return_truth=True, n_cell_types=3
    )


def test_rows_of_a_modality_may_come_in_any_order(simulated):
    mdata = simulated[0].copy()
    expected = _demo.zero_filled_pca(mdata, seed=0)
    for name, adata in mdata.mod.items():
        order = adata.obs_names.sort_values(ascending=False)
        mdata.mod[name] = adata[order].copy()
    np.testing.assert_allclose(_demo.zero_filled_pca(mdata, seed=0), expected, atol=1e-4)


def test_imputed_values_are_scored_where_nothing_was_measured(simulated):
    """What was measured may be far from the truth: it has no part in the scores."""
    mdata, truth = simulated
    filled_in, rng = {}, np.random.default_rng(0)
    for name, adata in truth.items():
        filled = adata[mdata.obs_names].copy()
        batch = mdata.obs["batch"].to_numpy()
        for one, has in _demo.BATCHES.items():
            if name in has:
                measured = np.ones(adata.n_vars, dtype=bool)
                if "measured" in mdata[name].varm:
                    measured = mdata[name].varm["measured"][one].to_numpy()
                noise = rng.random(((batch == one).sum(), measured.sum()))
                filled.X[np.ix_(batch == one, measured)] = noise
        filled.obs = filled.obs[[]]
        filled_in[name] = filled
    complete = MuData(filled_in)
    complete.obs["batch"] = mdata.obs["batch"]
    table = _demo._imputation(mdata, complete, truth)
    assert len(table) == 4
    np.testing.assert_allclose(table[_demo.AFTER], 1.0, atol=1e-5)


def test_labels_go_from_the_first_batch_to_the_second(simulated):
    mdata = simulated[0].copy()
    batch = mdata.obs["batch"].astype(str).to_numpy()
    types = np.where(np.arange(mdata.n_obs) % 5 < 2, "a", "b")
    types[batch == "CITE-seq"] = "a"  # the only votes
    mdata.obs["cell_type"] = types
    latent = np.random.default_rng(0).normal(size=(mdata.n_obs, 2))
    mdata.obsm["X_mumask"] = latent
    table = _demo._integration(mdata, latent).set_index("score")
    for target in ("RNA-only", "ASAP-seq"):
        score = table.loc[f"labels CITE-seq -> {target} (accuracy)"]
        assert score[_demo.BEFORE] == score[_demo.AFTER] == (types[batch == target] == "a").mean()
