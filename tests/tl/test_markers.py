"""Markers: which features and cells are ranked, and from which storage."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mumask.tl import rank_markers

N, MEASURED = 400, 10


@pytest.fixture
def null():
    """No group differs, but most cells of group 0 are in the batch that lacks ten of 20 genes."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (N, 2 * MEASURED)).astype(np.float32)
    batch = np.repeat(["full", "targeted"], N // 2)
    counts[batch == "targeted", MEASURED:] = 0
    rna = ad.AnnData(sp.csr_matrix(counts), obs=pd.DataFrame(index=[f"c{i}" for i in range(N)]))
    rna.var_names = [f"g{i}" for i in range(2 * MEASURED)]
    rna.varm["measured"] = pd.DataFrame(
        {"full": True, "targeted": np.arange(2 * MEASURED) < MEASURED}, index=rna.var_names
    )
    mdata = md.MuData({"rna": rna})
    mdata.obs["batch"] = batch
    share = np.where(batch == "targeted", 0.8, 0.2)
    mdata.obs["group"] = np.where(rng.random(N) < share, 0, 1)
    return mdata


def test_features_that_a_batch_did_not_measure_are_left_out(null, caplog):
    markers = rank_markers(null, "group", n_top=None)
    assert set(markers["feature"]) == {f"g{i}" for i in range(MEASURED)}
    assert (markers["pval_adj"] > 0.05).all()
    assert "10 of 20 features" in caplog.text
    # one batch alone measured what it measured
    full = null[(null.obs["batch"] == "full").to_numpy()].copy()
    assert rank_markers(full, "group", n_top=None)["feature"].nunique() == 2 * MEASURED
    # without the record, not measured looks like not expressed
    del null["rna"].varm["measured"]
    markers = rank_markers(null, "group", n_top=None).set_index("feature")
    assert (markers.loc[[f"g{i}" for i in range(MEASURED, 20)], "pval_adj"] < 1e-6).all()


def test_cells_without_a_group_do_not_bring_their_panel(null):
    null.obs["group"] = null.obs["group"].where(null.obs["batch"] == "full")
    assert rank_markers(null, "group", n_top=None)["feature"].nunique() == 2 * MEASURED


def test_denoised_values_rank_every_feature(null):
    markers = rank_markers(null, "group", denoised=null["rna"].to_df(), n_top=None)
    assert markers["feature"].nunique() == 2 * MEASURED


def test_recorded_panels_need_their_batches(null):
    null.obs["lane"] = null.obs.pop("batch")
    with pytest.raises(KeyError, match="'rna' has panels.*'batch' is not in"):
        rank_markers(null, "group")
    assert rank_markers(null, "group", n_top=None, batch_key="lane")["feature"].nunique() == 10
    null["rna"].varm["measured"].loc[:, ["full", "targeted"]] = [True, False]
    with pytest.raises(ValueError, match="No feature of modality 'rna'"):
        rank_markers(null, "group", batch_key="lane")


@pytest.mark.parametrize("reference", ["rest", "1"])
def test_shares_are_of_values_above_zero(null, reference):
    """Centred values are hardly ever zero."""
    del null["rna"].varm["measured"]
    values = null["rna"].X.toarray()
    null["rna"].layers["centred"] = values - values.mean(axis=0)
    markers = rank_markers(
        null, "group", layer="centred", groups=[0], reference=reference, n_top=None
    ).set_index("feature")
    above = null["rna"].to_df("centred") > 0
    inside = null.obs["group"] == 0
    for column, cells in {"share_in": inside, "share_out": ~inside}.items():
        expected = above[cells].mean()[markers.index]
        np.testing.assert_allclose(markers[column], expected, rtol=1e-6)


def test_outside_of_every_group_is_the_reference(null):
    """Also where another group is ranked beside it."""
    null.obs["group"] = np.arange(N) % 3
    markers = rank_markers(null, "group", groups=[0, 2], reference=1, n_top=None)
    above = null["rna"].to_df()[null.obs["group"] == 1] > 0
    for _, own in markers.groupby("group"):
        np.testing.assert_allclose(own["share_out"], above.mean()[own["feature"]], rtol=1e-6)


def test_groups_and_reference_by_number(null):
    by_name = rank_markers(null, "group", groups=["0"], reference="1")
    pd.testing.assert_frame_equal(rank_markers(null, "group", groups=0, reference=1), by_name)
    null.obs["group"] = null.obs["group"].astype(float)
    pd.testing.assert_frame_equal(rank_markers(null, "group", groups=0, reference=1.0), by_name)


@pytest.mark.parametrize("kind", [np.array, pd.Index, pd.Categorical])
def test_groups_as_pandas_and_numpy_give_them(null, kind):
    expected = rank_markers(null, "group", groups=["0", "1"])
    found = rank_markers(null, "group", groups=kind(["0", "1"]))
    pd.testing.assert_frame_equal(found, expected)


def test_no_feature_asked_for(null):
    with pytest.raises(ValueError, match="`n_top` is 0.*None for all"):
        rank_markers(null, "group", n_top=0)


def test_a_group_named_rest(null):
    """Beside it "rest" still means all other cells, as in scanpy."""
    null.obs["group"] = np.arange(N) % 3
    expected = rank_markers(null, "group", n_top=None)
    null.obs["group"] = null.obs["group"].map({0: "0", 1: "1", 2: "rest"})
    markers = rank_markers(null, "group", n_top=None)
    assert list(markers["group"].unique()) == ["0", "1", "rest"]
    pd.testing.assert_frame_equal(
        markers.assign(group=markers["group"].replace("rest", "2")), expected
    )
    only = rank_markers(null, "group", groups="rest", n_top=None)
    assert set(only["group"]) == {"rest"}


def test_groups_stand_in_the_order_of_the_categories(null, caplog):
    del null["rna"].varm["measured"]
    null.obs["group"] = np.arange(N) % 12
    null.obs.loc["c0", "group"] = 12  # one cell
    in_numbers = [str(i) for i in range(12)]
    assert list(rank_markers(null, "group", n_top=1)["group"]) == in_numbers
    assert "Groups ['12'] have fewer than 2 cells with modality 'rna' and are left" in caplog.text
    chosen = ["empty", "10", "2", *(name for name in in_numbers if name not in ("10", "2")), "12"]
    null.obs["group"] = pd.Categorical(null.obs["group"].astype(str), chosen)
    assert list(rank_markers(null, "group", n_top=1)["group"]) == chosen[1:-1]
    rank_markers(null, "group", n_top=1, denoised=null["rna"].to_df())
    assert "fewer than 2 cells in `denoised` and" in caplog.text


def test_not_a_mosaic(null):
    with pytest.raises(TypeError, match="Expected a MuData, got AnnData"):
        rank_markers(null["rna"], "group")


@pytest.mark.parametrize("storage", [sp.csr_array, sp.csc_array, sp.csc_matrix, np.asarray])
def test_any_storage(null, storage):
    expected = rank_markers(null, "group")
    null["rna"].X = storage(null["rna"].X.toarray())
    pd.testing.assert_frame_equal(rank_markers(null, "group"), expected, rtol=1e-4)


@pytest.mark.parametrize("storage", [sp.csr_matrix, np.asarray])
def test_data_in_a_file(null, tmp_path, storage):
    null["rna"].X = storage(null["rna"].X.toarray())
    expected = rank_markers(null, "group")
    null.write(tmp_path / "null.h5mu")
    backed = md.read_h5mu(tmp_path / "null.h5mu", backed="r")
    pd.testing.assert_frame_equal(rank_markers(backed, "group"), expected)


def test_a_modality_without_cells_is_named(null):
    rna = null["rna"]
    both = md.MuData({"rna": rna, "protein": ad.AnnData(np.ones((5, 2)))})
    both.obs["group"] = null.obs["group"].reindex(both.obs_names)
    alone = both[rna.obs_names].copy()
    with pytest.raises(ValueError, match="'protein' has no cells"):
        rank_markers(alone, "group", "protein")
