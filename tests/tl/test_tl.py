"""Markers of clusters and cell states of samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import mumask
from mumask.datasets import simulate_mosaic


@pytest.fixture(scope="module")
def simulated():
    return simulate_mosaic(
        200, n_features={"rna": 150, "protein": 20, "atac": 200}, n_cell_types=4, return_truth=True
    )


def overlap(markers: pd.DataFrame, truth, kinds) -> float:
    """Share of the best five of each group that truly are higher there than elsewhere."""
    hits = []
    for group, table in markers.groupby("group"):
        inside, outside = truth.X[kinds == group].mean(axis=0), truth.X[kinds != group].mean(axis=0)
        higher = pd.Series(inside > 1.2 * outside, index=truth.var_names)
        hits.append(higher[table["feature"].head(5)].mean())
    return float(np.mean(hits))


@pytest.mark.parametrize("modality", ["rna", "protein", "atac"])
def test_markers_of_measured_values(simulated, unchanged, modality):
    mdata, truth = simulated
    check = unchanged(mdata)
    markers = mumask.tl.rank_markers(mdata, "cell_type", modality, n_top=5)
    check()
    assert list(markers.columns) == [
        "group", "rank", "feature", "score", "log2_fold_change", "pval", "pval_adj", "share_in",
        "share_out",
    ]  # fmt: skip
    assert list(markers["group"].unique()) == list(mdata.obs["cell_type"].cat.categories)
    assert (markers.groupby("group")["rank"].apply(list).map(lambda r: r == [1, 2, 3, 4, 5])).all()
    assert overlap(markers, truth[modality], mdata.obs["cell_type"].to_numpy()) >= 0.75
    first = markers.iloc[0]
    cells = mdata[modality].obs_names
    inside = (mdata.obs["cell_type"][cells] == first["group"]).to_numpy()
    measured = mdata[modality][:, first["feature"]].X.toarray().ravel() > 0
    assert first["share_in"] == pytest.approx(measured[inside].mean())
    assert first["share_out"] == pytest.approx(measured[~inside].mean())


def test_markers_are_those_of_scanpy(simulated):
    mdata, _ = simulated
    rna = mdata["rna"].copy()
    sc.pp.normalize_total(rna)
    sc.pp.log1p(rna)
    rna.obs["kind"] = mdata.obs["cell_type"].reindex(rna.obs_names).astype(str).astype("category")
    sc.tl.rank_genes_groups(rna, "kind", method="wilcoxon", tie_correct=True, groups=["L1a"])
    theirs = sc.get.rank_genes_groups_df(rna, "L1a").head(20)
    ours = mumask.tl.rank_markers(mdata, "cell_type", "rna", groups="L1a")
    assert list(ours["feature"]) == list(theirs["names"])
    np.testing.assert_allclose(ours["log2_fold_change"], theirs["logfoldchanges"], rtol=1e-4)
    rna.obs["kind"] = rna.obs["kind"].astype(str)
    mdata["rna"].layers["lognorm"] = rna.X
    same = mumask.tl.rank_markers(mdata, "cell_type", "rna", groups="L1a", layer="lognorm")
    pd.testing.assert_frame_equal(ours, same)
    del mdata["rna"].layers["lognorm"]


@pytest.mark.parametrize("reference", ["rest", "L2a"])
@pytest.mark.parametrize("source", ["X", "layer", "denoised"])
def test_fold_change_of_peaks_is_that_of_their_shares(simulated, capsys, source, reference):
    mdata = simulated[0].copy()
    mdata["atac"].layers["peaks"] = mdata["atac"].X.copy()
    of_source = {
        "X": {},
        "layer": {"layer": "peaks"},
        "denoised": {"denoised": mdata["atac"].to_df()},
    }
    options = {"reference": reference, "n_top": None, **of_source[source]}
    markers = mumask.tl.rank_markers(mdata, "cell_type", "atac", **options)
    expected = np.log2((markers["share_in"] + 1e-9) / (markers["share_out"] + 1e-9))
    np.testing.assert_allclose(markers["log2_fold_change"], expected)
    assert (markers["share_in"] == 0).any()  # and the fold change is finite there
    assert capsys.readouterr().err == ""  # scanpy said that these were raw counts


def test_ranks_of_peaks_are_those_of_scanpy(simulated):
    mdata, _ = simulated
    atac = mdata["atac"].copy()
    atac.obs["kind"] = mdata.obs["cell_type"].reindex(atac.obs_names).astype(str).astype("category")
    sc.tl.rank_genes_groups(atac, "kind", method="wilcoxon", tie_correct=True, groups=["L1a"])
    theirs = sc.get.rank_genes_groups_df(atac, "L1a").head(20)
    ours = mumask.tl.rank_markers(mdata, "cell_type", "atac", groups="L1a")
    assert list(ours["feature"]) == list(theirs["names"])
    np.testing.assert_allclose(ours["score"], theirs["scores"], rtol=1e-5)
    np.testing.assert_allclose(ours["pval"], theirs["pvals"], rtol=1e-5)


def test_markers_of_denoised_values_reach_absent_cells(simulated):
    mdata, truth = simulated
    denoised = truth["atac"].to_df()  # what a perfect model would give, for all cells
    markers = mumask.tl.rank_markers(mdata, "cell_type", "atac", denoised=denoised, n_top=5)
    assert overlap(markers, truth["atac"], mdata.obs["cell_type"].to_numpy()) >= 0.9
    mixed = denoised.sample(frac=1, random_state=0)
    again = mumask.tl.rank_markers(mdata, "cell_type", "atac", denoised=mixed, n_top=5)
    pd.testing.assert_frame_equal(again, markers, rtol=1e-4)
    only = mdata.obs.index[mdata.obs["batch"] == "RNA-only"]  # no cell of these was measured
    markers = mumask.tl.rank_markers(mdata, "cell_type", "atac", denoised=denoised.loc[only])
    assert len(markers) == 4 * 20


def test_markers_against_one_group_and_small_groups(simulated, caplog):
    mdata, _ = simulated
    pair = mumask.tl.rank_markers(
        mdata, "cell_type", "protein", groups=["L1a"], reference="L2a", n_top=None
    )
    assert len(pair) == 20 and set(pair["group"]) == {"L1a"}
    odd = mdata.obs["cell_type"].astype(str)
    odd.iloc[0], odd.iloc[1:10] = "lonely", None
    mdata.obs["odd"] = odd
    markers = mumask.tl.rank_markers(mdata, "odd", "rna")
    del mdata.obs["odd"]
    assert "lonely" not in set(markers["group"])
    assert "lonely" in caplog.text


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"groupby": "typo"}, KeyError, "typo"),
        ({"groupby": "cell_type", "modality": "typo"}, KeyError, "typo"),
        ({"groupby": "cell_type", "layer": "typo"}, KeyError, "typo"),
        ({"groupby": "cell_type", "groups": ["typo"]}, ValueError, "typo"),
        ({"groupby": "cell_type", "reference": "typo"}, ValueError, "typo"),
        ({"groupby": "batch", "modality": "atac"}, ValueError, "two groups"),
        ({"groupby": "cell_type", "method": "logreg"}, ValueError, "'logreg'.*'wilcoxon'"),
        ({"groupby": "cell_type", "denoised": pd.DataFrame({"a": [1.0]}, ["x"])}, KeyError, "'x'"),
    ],
)
def test_bad_questions_about_markers(simulated, kwargs, error, text):
    with pytest.raises(error, match=text):
        mumask.tl.rank_markers(simulated[0], **kwargs)


def cohort(n_samples=24, n_cells=150, seed=0) -> pd.DataFrame:
    """Patients and controls; state "MS1" grows in patients, "B" stays as it is."""
    rng = np.random.default_rng(seed)
    tables = []
    for i in range(n_samples):
        sick = i % 2 == 0
        share = np.clip(rng.normal(0.30 if sick else 0.15, 0.05), 0.02, 0.6)
        p = [share, 0.3, 0.7 - share]
        states = rng.choice(["MS1", "B", "T"], n_cells, p=p)
        group = "sepsis" if sick else "control"
        tables.append(pd.DataFrame({"donor": f"d{i}", "state": states, "group": group}))
    obs = pd.concat(tables, ignore_index=True)
    return obs.astype({"donor": "category", "state": "category"})


def test_proportions():
    obs = cohort()
    shares = mumask.tl.cell_state_proportions(obs, "donor", "state")
    assert shares.shape == (24, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    own = obs[obs["donor"] == "d3"]["state"]
    assert shares.loc["d3", "MS1"] == pytest.approx((own == "MS1").mean())
    few = mumask.tl.cell_state_proportions(
        obs[(obs["donor"] != "d3") | (obs["state"] == "B")], "donor", "state"
    )
    assert list(few.loc["d3"]) == [1.0, 0.0, 0.0]


def test_the_state_that_grows_is_found():
    obs = cohort()
    table = mumask.tl.cell_state_auroc(obs, "donor", "state", "group", positive="sepsis")
    assert table.loc["MS1", "auroc"] >= 0.9
    assert table.loc["MS1", "mean_positive"] > table.loc["MS1", "mean_negative"]
    assert table.loc["MS1", "pval_adj"] < 0.01 < table.loc["B", "pval_adj"]
    assert table.loc["T", "auroc"] <= 0.1  # shares sum to 1
    assert table.index[-1] == "B"
    mirrored = mumask.tl.cell_state_auroc(obs, "donor", "state", "group", positive="control")
    table = table.loc[mirrored.index]
    np.testing.assert_allclose(mirrored["auroc"], 1 - table["auroc"])
    np.testing.assert_allclose(mirrored["mean_positive"], table["mean_negative"])
    for column in ("pval", "pval_adj"):  # a state that shrinks is as telling
        np.testing.assert_allclose(mirrored[column], table[column])


def test_samples_count_once_whatever_their_size():
    obs = cohort()
    big = pd.concat([obs, *[obs[obs["donor"] == "d0"]] * 50], ignore_index=True)
    for key in ("auroc", "mean_positive"):
        tables = [
            mumask.tl.cell_state_auroc(o, "donor", "state", "group", positive="sepsis")[key]
            for o in (obs, big)
        ]
        pd.testing.assert_series_equal(*tables)


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "text"),
    [
        ({}, {"sample_key": "typo"}, KeyError, "typo"),
        ({}, {"state_key": "typo"}, KeyError, "typo"),
        ({}, {"group_key": "typo"}, KeyError, "typo"),
        ({}, {"positive": "typo"}, ValueError, "typo"),
        ({"state": None}, {}, ValueError, "missing"),
        ({"group": None}, {}, ValueError, "missing"),
        ({"group": "third"}, {}, ValueError, "several"),
        ({}, {"group_key": "donor", "positive": "d0"}, ValueError, "24 groups"),
    ],
)
def test_bad_questions_about_proportions(change, kwargs, error, text):
    obs = cohort().astype(object)
    for column, value in change.items():
        obs.loc[5, column] = value
    given = {"sample_key": "donor", "state_key": "state", "group_key": "group"}
    given |= {"positive": "sepsis", **kwargs}
    with pytest.raises(error, match=text):
        mumask.tl.cell_state_auroc(obs, **given)


def test_shares_of_a_table_only():
    """A MuData has no way to say that it lacks a column: the search for one did not end."""
    mdata = simulate_mosaic(20, {"one": ("rna",)}, {"rna": 30})
    with pytest.raises(TypeError, match="pass its obs"):
        mumask.tl.cell_state_proportions(mdata, "batch", "cell_type")
