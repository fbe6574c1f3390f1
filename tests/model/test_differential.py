"""Differential expression and abundance against simulated truth, and what the tables hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mumask import MaskedVAE
from mumask.datasets import simulate_mosaic
from mumask.model._differential import DifferentialMixin


@pytest.fixture(scope="module")
def simulated():
    """A trained model, its data and the noise-free values."""
    mdata, truth = simulate_mosaic(
        900, n_features={"rna": 200, "protein": 30, "atac": 300}, n_cell_types=4, return_truth=True
    )
    MaskedVAE.setup_mudata(mdata, batch_key="batch")
    model = MaskedVAE(mdata)
    model.train(max_epochs=40, enable_progress_bar=False, accelerator="cpu")
    return model, mdata, truth


def true_change(truth, mdata, one, two) -> pd.Series:
    kinds = mdata.obs["cell_type"].to_numpy()
    means = [truth.X[kinds == kind].mean(axis=0) for kind in (one, two)]
    return pd.Series(np.log2(means[0] / means[1]), index=truth.var_names)


# Correlation with the true change.
@pytest.mark.parametrize(("modality", "r"), [("rna", 0.86), ("protein", 0.95), ("atac", 0.75)])
@pytest.mark.parametrize("batch_correction", [True, False])
def test_finds_what_changes(simulated, modality, r, batch_correction, unchanged):
    model, mdata, truth = simulated
    check = unchanged(mdata)
    table = model.differential_expression(
        groupby="cell_type",
        group1="L1a",
        group2="L2a",
        modality=modality,
        batch_correction=batch_correction,
        silent=True,
    )
    check()
    assert set(table.index) == set(mdata[modality].var_names)
    assert (table["proba_de"].diff().dropna() <= 0).all()
    assert {"bayes_factor", "lfc_mean", "is_de_fdr_0.05", "raw_mean1"} <= set(table.columns)
    assert set(table["comparison"]) == {"L1a vs L2a"}
    change = true_change(truth[modality], mdata, "L1a", "L2a")[table.index]
    found = np.corrcoef(change, table["lfc_mean"])[0, 1]
    assert found > r
    called = table.head(20).index
    assert (change[called].abs() > 0.25).mean() >= 0.9
    if modality == "rna":
        raw = np.log2(
            (table["raw_normalized_mean1"] + 0.05) / (table["raw_normalized_mean2"] + 0.05)
        )
        assert np.corrcoef(change, raw)[0, 1] < found - 0.03
    assert (np.sign(change[called]) == np.sign(table["lfc_median"][called])).mean() >= 0.9


def test_measured_statistics_leave_out_absent_cells(simulated):
    model, mdata, _ = simulated
    table = model.differential_expression(
        groupby="cell_type", group1="L1a", modality="atac", silent=True
    )
    atac = mdata["atac"]
    kinds = mdata.obs["cell_type"][atac.obs_names] == "L1a"
    own = atac[kinds.to_numpy()]
    peak = table.index[0]
    assert table.loc[peak, "raw_mean1"] == pytest.approx(own[:, peak].X.mean())
    assert table.loc[peak, "n_measured1"] == own.n_obs
    assert table.loc[peak, "n_measured2"] == atac.n_obs - own.n_obs
    assert "raw_normalized_mean1" not in table


@pytest.mark.parametrize("group", ["L1a", "L2b"])  # the first and the last
def test_cells_in_no_group_are_among_the_others(simulated, group):
    model, mdata, _ = simulated
    copy = mdata.copy()
    copy.obs["some"] = copy.obs["cell_type"].where(np.arange(copy.n_obs) % 3 > 0)
    table = model.differential_expression(
        copy, groupby="some", group1=group, modality="protein", silent=True
    )
    protein = copy["protein"]
    own = (copy.obs["some"].reindex(protein.obs_names) == group).to_numpy()
    expected = protein[~own, table.index].X.mean(axis=0)
    assert (table["n_measured2"] == (~own).sum()).all()
    np.testing.assert_allclose(table["raw_mean2"], np.ravel(expected), rtol=1e-5)


def test_panels_count_only_where_measured(make_mosaic, fit):
    mosaic = make_mosaic()
    model = fit(
        mosaic, setup={"panels": {"protein": {"cite": [f"protein{i}" for i in range(2, 6)]}}}
    )
    table = model.differential_expression(
        groupby="batch", group1="cite", group2="asap", modality="protein", silent=True
    )
    assert table.loc["protein0", "n_measured1"] == 0
    assert np.isnan(table.loc["protein0", "raw_mean1"])
    assert table.loc["protein0", "n_measured2"] == 30
    assert np.isfinite(table["lfc_mean"]).all()


def test_cells_as_query_names_numbers_and_booleans(trained):
    obs = trained.adata.obs
    one, two = obs["batch"] == "cite", obs["batch"] == "solo"
    ways = [
        ("batch == 'cite'", "batch == 'solo'"),
        (one.to_numpy(), two.to_numpy()),
        (np.flatnonzero(one), np.flatnonzero(two)),
        (list(obs.index[one]), list(obs.index[two])),
    ]
    tables = [
        trained.differential_expression(idx1=a, idx2=b, modality="protein", silent=True)
        for a, b in ways
    ]
    for table in tables:
        assert "group1" not in table
        pd.testing.assert_frame_equal(
            table.filter(like="raw").sort_index(), tables[0].filter(like="raw").sort_index()
        )
    rest = trained.differential_expression(idx1=one.to_numpy(), modality="protein", silent=True)
    assert rest["n_measured2"].max() == (obs["batch"] == "asap").sum()


def test_every_group_and_new_data(trained, make_mosaic):
    table = trained.differential_expression(groupby="cell_type", modality="protein", silent=True)
    assert list(table["group1"].unique()) == ["type0", "type1", "type2", "type3"]
    assert set(table["group2"]) == {"Rest"}
    new = make_mosaic(10, seed=3)
    new["rna"].layers["seen"] = np.ones(new["rna"].shape, dtype=bool)
    other = trained.differential_expression(
        new, groupby="cell_type", group1="type1", features=["rna5", "rna2"],
        silent=True, n_samples_overall=60, mode="vanilla",
    )  # fmt: skip
    assert set(other.index) == {"rna2", "rna5"}
    assert {"proba_m1", "bayes_factor", "scale1"} <= set(other.columns)


def test_groups_are_decoded_as_the_batches_named(trained, monkeypatch):
    """At the depth that an average cell has in the modality."""
    batches, draw, seen = trained.adata.obs["batch"].to_numpy(str), trained._draw_expression, []

    def spied(mdata, cells, modality, columns, transform_batch, batch_size):
        seen.append((set(batches[cells]), transform_batch))
        return draw(mdata, cells, modality, columns, transform_batch, batch_size)

    monkeypatch.setattr(trained, "_draw_expression", spied)
    table = trained.differential_expression(
        groupby="batch", group1="cite", group2="asap", modality="protein", silent=True,
        batch_correction=True, batchid1=["asap"], batchid2=["solo"], n_samples_overall=50,
    )  # fmt: skip
    assert seen == [({"cite"}, "asap"), ({"asap"}, "solo")]
    total = trained.registry_["field_registries"]["X_protein"]["state_registry"]["total"]
    assert table["scale1"].sum() == pytest.approx(total, rel=1e-3)
    assert table["scale2"].sum() == pytest.approx(total, rel=1e-3)


def test_real_values_have_differences(make_mosaic, fit):
    mosaic = make_mosaic()
    mosaic["rna"].X = np.log1p(mosaic["rna"].X.toarray())
    model = fit(mosaic, setup={"likelihoods": {"rna": "gaussian"}}, epochs=3)
    table = model.differential_expression(groupby="batch", group1="cite", silent=True)
    assert "difference_mean" in table and "lfc_mean" not in table
    gap = (table["scale1"] - table["scale2"]).to_numpy()
    np.testing.assert_allclose(table["difference_mean"], gap, atol=1e-5)


def test_the_users_inference_mode_changes_nothing(trained):
    compare = lambda: trained.differential_expression(groupby="batch", group1="cite", silent=True)
    expected = compare()
    with torch.inference_mode():
        found = compare()
    measured = [c for c in found if c.startswith(("raw", "n_measured"))]
    pd.testing.assert_frame_equal(found[measured].loc[expected.index], expected[measured])


def test_a_model_without_posterior_draws_cells_only(trained):
    cells = np.array([3, 3, 5])
    decoded = trained.get_normalized_expression(indices=[3, 3, 5], modality="rna").to_numpy()
    columns = np.array([2, 0])
    drawn = DifferentialMixin._draw_expression(
        trained, trained.adata, cells, "rna", columns, None, None
    )
    np.testing.assert_allclose(drawn, decoded[:, columns], rtol=1e-5)
    sampled = trained._draw_expression(trained.adata, cells, "rna", columns, None, None)
    assert not np.allclose(sampled[0], sampled[1])


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({}, ValueError, "groupby=..."),
        ({"groupby": "nothing"}, KeyError, "nothing"),
        ({"groupby": "cell_type", "group1": "typo"}, ValueError, "typo"),
        ({"groupby": "cell_type", "group1": "type1", "group2": "typo"}, ValueError, "typo"),
        ({"groupby": "cell_type", "group1": "type1", "group2": "type1"}, ValueError, "both"),
        ({"groupby": "cell_type", "idx1": [0]}, ValueError, "not both"),
        ({"idx2": [0]}, ValueError, "idx1"),
        ({"idx1": np.zeros(90, dtype=bool)}, ValueError, "no cell"),
        ({"idx1": []}, ValueError, "`idx1` has no cell"),
        ({"idx1": [0], "idx2": []}, ValueError, "`idx2` has no cell"),
        ({"idx1": "age > 1000"}, ValueError, "`idx1` has no cell"),
        ({"idx1": [90]}, IndexError, "`idx1` go beyond the 90 cells"),
        ({"idx1": np.ones(3, dtype=bool)}, ValueError, "booleans"),
        ({"idx1": [0, 1], "idx2": [1, 2]}, ValueError, "share 1"),
        ({"idx1": ["nobody"]}, KeyError, "no cell named 'nobody'"),
        ({"groupby": "cell_type", "modality": "typo"}, ValueError, "typo"),
        ({"groupby": "cell_type", "features": ["typo"]}, KeyError, "no 'typo'"),
        ({"groupby": "cell_type", "batchid1": ["typo"]}, ValueError, "typo"),
    ],
)
def test_bad_questions(trained, kwargs, error, text):
    with pytest.raises(error, match=text):
        trained.differential_expression(silent=True, **kwargs)


def test_abundance_finds_the_enriched_type(simulated, unchanged):
    """Two samples of one tissue; a cell type is rare in the second."""
    model, mdata, _ = simulated
    rng = np.random.default_rng(0)
    kinds = mdata.obs["cell_type"].astype(str)
    common = kinds.value_counts().index[0]
    share = np.where(kinds == common, 0.1, 0.5)
    mdata.obs["sample"] = np.where(rng.random(mdata.n_obs) < share, "s2", "s1")
    check = unchanged(mdata)
    table = model.differential_abundance(sample_key="sample", num_cells_posterior=400)
    check()
    del mdata.obs["sample"]
    assert list(table.columns) == ["s1", "s2"]
    assert table.index.equals(mdata.obs_names)
    ratio = table["s1"] - table["s2"]
    assert ratio[kinds == common].median() - ratio[kinds != common].median() > 1
    with pytest.raises(KeyError, match="typo"):
        model.differential_abundance(sample_key="typo")
    with pytest.raises(ValueError, match="sample_key="):
        model.differential_abundance()


def test_abundance_without_the_cells_of_a_sample(trained):
    """As in a part of the data, whose columns keep the names of all samples."""
    copy = trained.adata.copy()
    copy.obs["sample"] = copy.obs["donor"].astype(str)
    expected = trained.differential_abundance(copy, sample_key="sample")
    copy.obs["sample"] = pd.Categorical(copy.obs["sample"], categories=["d0", "d1", "d2", "d3"])
    found = trained.differential_abundance(copy, sample_key="sample")
    assert list(found.columns) == ["d1", "d2", "d3"]
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("dof", [None, 3.0])
def test_density_is_a_mixture_of_posteriors(dof):
    from scipy.stats import norm, t

    from mumask.model._differential import _log_density

    rng = np.random.default_rng(0)
    z, mean = 3 * rng.standard_normal((40, 5)), 3 * rng.standard_normal((7, 5))
    variance = rng.uniform(1e-3, 0.5, (7, 5))
    places = (z[:, None], mean, np.sqrt(variance))
    logs = norm.logpdf(*places) if dof is None else t.logpdf(z[:, None], dof, *places[1:])
    expected = np.logaddexp.reduce(logs.sum(axis=2), axis=1) - np.log(7)
    np.testing.assert_allclose(_log_density(z, mean, variance, dof), expected)
    many = _log_density(np.tile(z, (4000, 1)), mean, variance, dof)  # in several steps
    np.testing.assert_allclose(many, np.tile(expected, 4000))
    single = _log_density(*(x.astype(np.float32) for x in (z, mean, variance)), dof)
    np.testing.assert_allclose(single, expected, rtol=1e-4)
