"""The simulated mosaic: structure, determinism, realism and truth."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from mumask.datasets import _simulate, simulate_mosaic

SMALL = {"n_cells": 60, "n_features": {"rna": 80, "protein": 12, "atac": 150}, "n_cell_types": 4}
PER_BATCH = {"CITE-seq": 20, "ASAP-seq": 20, "RNA-only": 20}


@pytest.fixture(scope="module")
def default():
    return simulate_mosaic(return_truth=True)


def test_default_layout_and_presence(default):
    mdata, _ = default
    present = {
        mod: set(mdata.obs.loc[adata.obs_names, "batch"]) for mod, adata in mdata.mod.items()
    }
    assert present == {
        "rna": {"CITE-seq", "RNA-only"},
        "protein": {"CITE-seq", "ASAP-seq"},
        "atac": {"ASAP-seq"},
    }
    assert mdata.obs["batch"].value_counts().eq(600).all()
    for column in ("batch", "cell_type"):
        assert isinstance(mdata.obs[column].dtype, pd.CategoricalDtype)
        assert mdata.obs[column].notna().all()
    for adata in mdata.mod.values():
        assert sp.isspmatrix_csr(adata.X) and adata.X.dtype == np.float32
        assert adata.obs.shape[1] == 0 and adata.obs_names.is_unique and adata.var_names.is_unique


def test_rows_of_modalities_are_shuffled_and_batch_of_a_name_is_right(default):
    mdata, _ = default
    for adata in mdata.mod.values():
        where = mdata.obs_names.get_indexer(adata.obs_names)
        assert (where >= 0).all()
        assert (np.diff(where) < 0).mean() > 0.3  # far from sorted
    assert (mdata.obs_names.str.split("_").str[0] == mdata.obs["batch"].astype(str)).all()


def test_latent_stays_with_its_cell(default):
    """A wrong order in assembling would pair a cell with another one's latent and labels."""
    mdata, _ = default
    knn = KNeighborsClassifier(15)
    assert cross_val_score(knn, mdata.obsm["X_true"], mdata.obs["cell_type"], cv=3).mean() > 0.93


def test_counts_follow_the_truth_of_their_own_cell(default):
    mdata, truth = default
    for mod, adata in mdata.mod.items():
        assert truth[mod].shape == (mdata.n_obs, adata.n_vars)
        assert (truth[mod].obs_names == mdata.obs_names).all()
        expected = np.log1p(truth[mod][adata.obs_names].X)
        measured = np.log1p(adata.X.toarray())
        right = _mean_correlation(measured, expected)
        batch = mdata.obs.loc[adata.obs_names, "batch"].to_numpy()
        wrong = expected.copy()
        for name in np.unique(batch):  # the same batch, but another cell
            rows = np.flatnonzero(batch == name)
            wrong[rows] = expected[np.roll(rows, 1)]
        assert right > 0.1 and abs(_mean_correlation(measured, wrong)) < right / 4, mod


def _mean_correlation(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return ((x * y).sum(0) / np.sqrt((x**2).sum(0) * (y**2).sum(0) + 1e-12)).mean()


def test_expected_values_are_unbiased_without_batch_effects():
    mdata, truth = simulate_mosaic(
        1500, {"all": ("rna", "protein", "atac")}, SMALL["n_features"], 4, batch_strength=0,
        return_truth=True,
    )  # fmt: skip
    for mod, adata in mdata.mod.items():
        measured = np.asarray(adata.X.mean(0)).ravel()
        expected = truth[mod].X.mean(0)
        # depths are log-normal around a median of 1, so their mean lies some 5-10 % above it
        assert 0.95 < measured.sum() / expected.sum() < 1.25, mod
        assert np.corrcoef(np.log(measured), np.log(expected))[0, 1] > 0.95


@pytest.mark.parametrize("mod", _simulate.ASSAYS)
def test_counts_of_one_cell_have_its_expected_value(mod):
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(50, 4)).astype(np.float32)
    assay = _simulate.ASSAYS[mod](rng, 40, cells, 2, 1.0)
    z, batch = np.repeat(cells[:1], 4000, axis=0), np.ones(4000, dtype=int)
    depth = np.full(4000, 1.3, dtype=np.float32)
    drawn = assay.counts(rng, z, batch, depth, None).sum(axis=1)
    expected = assay.expected(z[:1], batch[:1], depth[:1]).sum()
    assert drawn.mean() == pytest.approx(expected, rel=0.02)


def test_realism(default):
    mdata, truth = default
    rna, protein, atac = (mdata[mod].X for mod in ("rna", "protein", "atac"))
    assert 0.82 < 1 - rna.nnz / np.prod(rna.shape) < 0.95
    assert 0.3 < np.log(np.asarray(rna.sum(1)).ravel()).std() < 0.8
    assert set(np.unique(atac.data)) == {1.0}
    assert 0.01 < atac.nnz / np.prod(atac.shape) < 0.06
    assert (rna.data == np.round(rna.data)).all() and (protein.data == np.round(protein.data)).all()
    # more variance than Poisson: the Fano factor of a well-expressed gene is above 1
    genes = rna.toarray()
    fano = genes.var(0) / genes.mean(0)
    assert np.median(fano[genes.mean(0) > 0.5]) > 1.5
    # proteins have two states: high cells an order of magnitude above low ones
    dense = protein.toarray()
    ratio = np.quantile(dense, 0.98, axis=0) / np.maximum(np.quantile(dense, 0.1, axis=0), 1)
    assert np.median(ratio) > 10
    assert 0 < truth["atac"].X.min() and truth["atac"].X.max() < 0.7


def test_types_are_unequal_and_lineages_are_apart(default):
    mdata, _ = default
    share = mdata.obs["cell_type"].value_counts(normalize=True)
    assert share.max() > 3 * share.min() > 0
    centres = pd.DataFrame(mdata.obsm["X_true"], index=mdata.obs["cell_type"]).groupby(
        level=0, observed=True
    )
    centres = centres.mean()
    gaps = np.linalg.norm(centres.to_numpy()[:, None] - centres.to_numpy()[None], axis=2)
    lineage = centres.index.astype(str).str[:-1].to_numpy()
    same = (lineage[:, None] == lineage[None]) & ~np.eye(len(lineage), dtype=bool)
    other = lineage[:, None] != lineage[None]
    assert gaps[same].mean() < 0.6 * gaps[other].mean()


def test_integration_is_needed_and_batch_strength_controls_it(default):
    def batch_accuracy(mdata):
        X = mdata["rna"].X.toarray()
        X = np.log1p(X / X.sum(1, keepdims=True) * 1e3)
        Z = PCA(10, random_state=0).fit_transform(X)
        obs = mdata.obs.loc[mdata["rna"].obs_names]
        one = (obs["batch"] == "CITE-seq").to_numpy()
        knn = KNeighborsClassifier(15)
        types = cross_val_score(knn, Z[one], obs["cell_type"][one].astype(str), cv=3).mean()
        return cross_val_score(knn, Z, obs["batch"].astype(str), cv=3).mean(), types

    batch, types = batch_accuracy(default[0])
    assert batch > 0.9 and types > 0.75
    batch, _ = batch_accuracy(simulate_mosaic(300, batch_strength=0))
    assert batch < 0.65


def test_seed_decides_everything():
    one, same, other = (simulate_mosaic(**SMALL, seed=s) for s in (1, 1, 2))
    for mod in one.mod:
        assert (one[mod].obs_names == same[mod].obs_names).all()
        assert (one[mod].X != same[mod].X).nnz == 0
        assert (one[mod].obs_names != other[mod].obs_names).any()
    np.testing.assert_array_equal(one.obsm["X_true"], same.obsm["X_true"])
    assert not np.allclose(one.obsm["X_true"], other.obsm["X_true"])


def test_leaving_a_modality_out_keeps_the_others():
    full = simulate_mosaic(**SMALL)
    less = simulate_mosaic(
        batches={"CITE-seq": ("rna",), "ASAP-seq": ("atac",), "RNA-only": ("rna",)}, **SMALL
    )
    assert (full["rna"].X != less["rna"].X).nnz == 0
    assert (full["atac"].X != less["atac"].X).nnz == 0


def test_tiny_chunks_give_a_whole_matrix(monkeypatch):
    monkeypatch.setattr(_simulate, "_CHUNK_ELEMENTS", 1000)  # seven cells of 150 peaks
    shapes = []
    counts = _simulate.ASSAYS["atac"].counts

    def spy(self, rng, z, *args):
        shapes.append(len(z))
        return counts(self, rng, z, *args)

    monkeypatch.setattr(_simulate.ASSAYS["atac"], "counts", spy)
    mdata, truth = simulate_mosaic(**SMALL, return_truth=True)
    assert max(shapes) == 6 and sum(shapes) == 60
    assert mdata["atac"].shape == (60, 150)
    assert truth["rna"].shape == (180, 80) and (truth["rna"].X > 0).all()


def test_chunks_keep_to_the_panels_of_their_cells(monkeypatch):
    monkeypatch.setattr(_simulate, "_CHUNK_ELEMENTS", 1000)  # 12 cells of 80 genes
    mdata = simulate_mosaic(**SMALL, panels={"RNA-only": {"rna": 0.5}})
    rna, batch = mdata["rna"], mdata.obs["batch"].reindex(mdata["rna"].obs_names)
    for name, measured in rna.varm["measured"].items():
        shown = np.asarray((rna[batch == name].X > 0).sum(axis=0)).ravel() > 0
        np.testing.assert_array_equal(shown, measured)


def test_panels_blank_features_of_one_batch_only():
    genes = [f"gene{i}" for i in range(5, 25)]
    mdata = simulate_mosaic(
        **SMALL, panels={"RNA-only": {"rna": genes}, "ASAP-seq": {"protein": 0.5}}
    )
    batch = mdata.obs["batch"]
    for mod, name, n in (("rna", "RNA-only", 20), ("protein", "ASAP-seq", 6)):
        adata = mdata[mod]
        measured = adata.varm["measured"]
        seen = pd.DataFrame(
            {
                b: adata[(batch[adata.obs_names] == b).to_numpy()].X.getnnz(axis=0) > 0
                for b in measured
            },
            index=adata.var_names,
        )
        # a measured feature is seen in every batch, an unmeasured one in none of its cells
        pd.testing.assert_frame_equal(measured, seen, check_names=False)
        assert measured[name].sum() == n and measured.drop(columns=name).to_numpy().all()
    assert list(mdata["rna"].var_names[mdata["rna"].varm["measured"]["RNA-only"]]) == genes
    assert "measured" not in mdata["atac"].varm


def test_no_cell_is_empty_even_with_few_features():
    mdata = simulate_mosaic(150, n_features={"rna": 5, "protein": 2, "atac": 8})
    for adata in mdata.mod.values():
        assert adata.X.getnnz(axis=1).min() > 0
        assert adata.X.sum(axis=1).min() > 0


def test_cells_per_batch_and_one_modality():
    mdata = simulate_mosaic({"a": 20, "b": 30}, {"a": ["rna"], "b": ["rna"]}, {"rna": 50}, 2)
    assert mdata.obs["batch"].value_counts().to_dict() == {"b": 30, "a": 20}
    assert list(mdata.mod) == ["rna"]


@pytest.mark.parametrize("n_types", [1, 2, 3, 7, 30])
def test_any_number_of_cell_types(n_types):
    mdata = simulate_mosaic(20, {"a": ("rna",)}, {"rna": 20}, n_types)
    assert mdata.obs["cell_type"].cat.categories.is_unique
    assert len(mdata.obs["cell_type"].cat.categories) == n_types


def test_no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        simulate_mosaic(**SMALL, return_truth=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batches": {"a": ("dna",)}}, "dna"),
        ({"batches": {"a": ()}}, "'a'"),
        ({"n_features": {"adt": 10}}, "adt"),
        ({"n_cells": 0}, "n_cells"),
        ({"n_cells": {**PER_BATCH, "new": 5}}, "n_cells.*'CITE-seq'.*'new'"),
        ({"n_cells": {"CITE-seq": 5}}, "n_cells needs.*'RNA-only'"),
        ({"n_cells": {**PER_BATCH, "CITE-seq": 0}}, "at least one cell"),
        ({"n_cells": 10.5}, "a whole number"),
        ({"panels": {"CITE-seq": {"rna": 0}}}, r"panels\['CITE-seq'\]\['rna'\] is 0"),
        ({"panels": {"CITE-seq": {"rna": 1.5}}}, "share.*at most 1"),
        ({"panels": {"CITE-seq": {"rna": []}}}, r"\['rna'\] names no feature"),
        ({"panels": {"CITE-seq": {"rna": "gene1"}}}, r"text 'gene1'; give a list: \['gene1'\]"),
        ({"n_cell_types": 0}, "positive"),
        ({"panels": {"CITE-seq": {"atac": 0.5}}}, "panels"),
        ({"panels": {"CITE-seq": {"rna": ["no such gene"]}}}, "not in 'rna'"),
    ],
)
def test_wrong_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        simulate_mosaic(**{**SMALL, **wrong})


def test_written_and_read_again(tmp_path):
    import mudata

    mdata = simulate_mosaic(**SMALL, panels={"RNA-only": {"rna": 0.5}})
    mdata.write_h5mu(tmp_path / "mosaic.h5mu")
    again = mudata.read_h5mu(tmp_path / "mosaic.h5mu")
    # mudata 0.3 may read the cells in another order, so they are compared by name
    latent = pd.DataFrame(mdata.obsm["X_true"], index=mdata.obs_names)
    np.testing.assert_array_equal(again.obsm["X_true"], latent.loc[again.obs_names])
    assert (again["rna"].obs_names == mdata["rna"].obs_names).all()
    assert (again["rna"].X != mdata["rna"].X).nnz == 0
    assert again["rna"].varm["measured"]["RNA-only"].sum() == 40
