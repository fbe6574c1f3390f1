"""Registration: the data stay as they are, panels are found, loaders iterate, memory stays small."""

from __future__ import annotations

import logging
import tracemalloc
from itertools import islice

import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scvi.dataloaders import DataSplitter, SemiSupervisedDataSplitter

from mumask.data._blocks import SPARSE_BELOW, RowSpans, read_rows, row_reader, to_tensor
from mumask.data._panels import find_panel
from mumask.data._scan import scan


def state_of(manager, modality) -> dict:
    return manager.registry["field_registries"][f"X_{modality}"]["state_registry"]


# Nothing is modified


@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_nothing_is_modified(make_mosaic, unchanged, fit, storage):
    mosaic = make_mosaic(storage=storage)
    mosaic["rna"].layers["seen"] = sp.csr_matrix(np.ones(mosaic["rna"].shape, dtype=bool))
    mosaic.obsm["X_old"] = np.ones((mosaic.n_obs, 2))
    mosaic.uns["mine"] = {"a": 1}
    if storage is sp.csr_matrix:  # stored zeros may not be cleaned away either
        mosaic["rna"].X.data[:3] = 0
    check = unchanged(mosaic)
    setup = {
        "labels_key": "some_labels",
        "categorical_covariate_keys": ["site", "donor"],
        "continuous_covariate_keys": ["age"],
        "mask_layers": {"rna": "seen"},
    }
    model = fit(mosaic, setup=setup, epochs=1, train={"train_size": 0.8})
    model.get_latent_representation()
    model.get_normalized_expression(modality="atac", transform_batch=["cite", "solo"])
    model.impute()
    model.predict()
    model.predict(soft=True)
    model.get_label_uncertainty()
    model.get_elbo()
    model.get_reconstruction_error()
    check()
    assert set(mosaic.uns) == {"mine", "_scvi_uuid", "_scvi_manager_uuid"}


# Panels


def test_panels_are_found_and_said(mosaic, caplog, manager_of, with_panel):
    with caplog.at_level(logging.INFO, logger="mumask"):
        manager = manager_of(with_panel(mosaic))
    panel = state_of(manager, "protein")["panel"]
    expected = np.ones((3, 6), dtype=bool)
    expected[1, :2] = False  # batches are sorted: asap, cite, solo
    np.testing.assert_array_equal(panel, expected)
    assert "Panel of 'protein': batch 'cite' measured 4 of 6 features" in caplog.text
    assert "'asap'" not in caplog.text


def test_full_panels_are_not_talked_about(mosaic, caplog, manager_of):
    with caplog.at_level(logging.INFO, logger="mumask"):
        manager = manager_of(mosaic, panels={m: {} for m in mosaic.mod})
    assert "Panel" not in caplog.text
    assert all(state_of(manager, m)["panel"].all() for m in mosaic.mod)


def test_given_panels_go_first(mosaic, manager_of, with_panel):
    panels = {"protein": {"cite": ["protein3", "protein5"]}}
    panel = state_of(manager_of(with_panel(mosaic), panels=panels), "protein")["panel"]
    assert panel[[0, 2]].all()
    np.testing.assert_array_equal(panel[1], [False, False, False, True, False, True])


def test_given_panels_of_numbered_batches(mosaic, manager_of):
    mosaic.obs["lane"] = (mosaic.obs["batch"] == "cite").astype(int)
    for batch in (1, "1", np.int64(1)):
        panels = {"protein": {batch: ["protein3", "protein5"]}}
        panel = state_of(manager_of(mosaic, batch_key="lane", panels=panels), "protein")["panel"]
        assert panel[0].all()
        np.testing.assert_array_equal(panel[1], [False, False, False, True, False, True])
    with pytest.raises(ValueError, match=r"\['7'\]"):
        manager_of(mosaic, batch_key="lane", panels={"protein": {7: ["protein3"]}})


def shown(rng, rate, n_cells, absent=()) -> np.ndarray:
    """Cells that show each feature, ``(n_batch, n_features)``; the first batch lacks `absent`."""
    nonzero = np.stack([rng.binomial(n, rate) for n in n_cells])
    nonzero[0, list(absent)] = 0
    return nonzero


@pytest.mark.parametrize("n_small", [10, 50, 300])
def test_rare_features_of_a_small_batch_stay_measured(n_small):
    """Thousands of them are zero by chance, and some of them beat a chance of e^-5."""
    rng = np.random.default_rng(n_small)
    rate, n_cells = rng.beta(0.3, 3, 4000), np.array([n_small, 5000])
    wrong = 0
    for _ in range(20):
        nonzero = shown(rng, rate, n_cells)
        assert (nonzero[0] == 0).sum() > 400
        wrong += (~find_panel(nonzero, n_cells)).any()
    assert wrong <= 1


@pytest.mark.parametrize("share", [0.0003, 0.01, 0.05, 0.95])
def test_absent_features_are_found(share):
    rng = np.random.default_rng(0)
    rate, n_cells = rng.beta(0.3, 3, 4000), np.array([300, 5000])
    common = np.flatnonzero(rate > 0.2)
    absent = rng.choice(4000 if share > 0.5 else common, round(share * 4000), replace=False)
    nonzero = shown(rng, rate, n_cells, absent)
    panel = find_panel(nonzero, n_cells)
    assert not panel[0, np.intersect1d(absent, common)].any()
    assert panel[0, np.setdiff1d(np.flatnonzero(nonzero[0]), absent)].all()
    assert panel[1].all()
    if share < 0.5:  # in a panel of a twentieth of the genes, a zero of a rare one is off it
        assert panel[0, np.setdiff1d(np.arange(4000), absent)].mean() > 0.995


def test_a_shallow_batch_is_no_panel():
    """A fourth of the depth leaves many more zeros, in rare features."""
    rng = np.random.default_rng(0)
    rate, n_cells = rng.beta(0.3, 3, 4000), np.array([100, 5000])
    nonzero = np.stack([rng.binomial(100, rate / 4), rng.binomial(5000, rate)])
    assert find_panel(nonzero, n_cells).all()


def test_a_batch_that_differs_needs_stronger_evidence():
    """Rates that go up and down between batches: a zero where 20 cells were due is no news."""
    rng = np.random.default_rng(0)
    rate, n_cells = rng.uniform(0.02, 0.3, 200), np.array([300, 3000])
    other = rate * rng.gamma(0.8, 1 / 0.8, 200)
    nonzero = np.stack([rng.poisson(300 * other), rng.binomial(3000, rate)]).clip(0, 300)
    nonzero[0, 5] = 0
    assert find_panel(nonzero, n_cells).all()
    same = shown(rng, rate, n_cells, [5])
    assert list(np.flatnonzero(~find_panel(same, n_cells)[0])) == [5]


def test_a_batch_without_the_modality_has_a_full_panel(mosaic, manager_of):
    assert state_of(manager_of(mosaic), "atac")["panel"][[1, 2]].all()


def test_profile_is_not_diluted_by_panels(mosaic, manager_of, with_panel):
    """The mean of a feature is over the cells that measured it."""
    before = mosaic["protein"].X.toarray()
    state = state_of(manager_of(with_panel(mosaic)), "protein")
    names = mosaic["protein"].obs_names
    measured = names.str.startswith("asap")
    mean = before[measured, 0].mean()
    assert state["profile"][0] * state["total"] == pytest.approx(mean)
    assert state["profile"].sum() == pytest.approx(1)


def test_what_was_not_measured_is_in_no_average(mosaic, manager_of):
    """Whatever is stored under a mask or off a panel; masked elements do not dilute others."""
    rna, protein = mosaic["rna"], mosaic["protein"]
    cite = protein.obs_names.str.startswith("cite")
    seen = np.random.default_rng(0).random(rna.shape) < 0.6
    rna.layers["seen"] = seen
    counts, proteins = rna.X.toarray() + np.eye(*rna.shape), protein.X.toarray()
    setup = {
        "panels": {"protein": {"cite": [f"protein{i}" for i in range(2, 6)]}},
        "mask_layers": {"rna": "seen"},
    }
    states = []
    for stored in (1, 1000):
        rna.X = sp.csr_matrix(np.where(seen, counts, stored))
        proteins[np.ix_(cite, [0, 1])] = stored
        protein.X = proteins.copy()
        manager = manager_of(mosaic, **setup)
        states.append([state_of(manager, name) for name in ("rna", "protein")])
    for one, other in zip(*states, strict=True):
        for name in ("profile", "total", "detection", "n_measured"):
            np.testing.assert_array_equal(one[name], other[name], name)
    state, shown = states[0][0], np.where(seen, counts, np.nan)
    np.testing.assert_allclose(state["profile"] * state["total"], np.nanmean(shown, axis=0))
    shown[seen] = shown[seen] > 0
    np.testing.assert_allclose(state["detection"], np.nanmean(shown, axis=0))


def test_a_constant_covariate_has_no_deviation(mosaic, manager_of):
    mosaic.obs["dose"] = 0.1
    manager = manager_of(mosaic, continuous_covariate_keys=["dose"])
    state = manager.registry["field_registries"]["cont_covs"]["state_registry"]
    assert state["deviation"].tolist() == [1.0]


# Scan and blocks


def test_scan_of_many_blocks_equals_numpy():
    rng = np.random.default_rng(0)
    x = rng.poisson(0.3, (9000, 7)).astype(np.float32)
    x[:, 6] = 0
    x[5000:5003] = 0
    x[4100, 2], x[8999, 0], x[3, 3] = -2, 1.5, np.nan
    codes = rng.integers(0, 3, len(x))
    for matrix in (x, sp.csr_matrix(x), sp.csc_matrix(x), sp.csr_array(x)):
        found = scan(matrix, codes, 3)
        np.testing.assert_array_equal(found.negative, [4100])
        np.testing.assert_array_equal(found.nonfinite, [3])
        np.testing.assert_array_equal(found.fractional, [3, 8999])
        np.testing.assert_array_equal(found.zero_rows, np.flatnonzero((x == 0).all(axis=1)))
        rows = np.flatnonzero(((x != 0) & (x != 1)).any(axis=1))
        np.testing.assert_array_equal(found.not_binary, rows)
        counts = [(x[codes == b] != 0).sum(axis=0) for b in range(3)]
        np.testing.assert_array_equal(found.nonzero, counts)
        totals = [x[codes == b].sum(axis=0, dtype=float) for b in range(3)]
        np.testing.assert_allclose(found.feature_totals, totals)
        np.testing.assert_array_equal(found.measured, np.bincount(codes)[:, None].repeat(7, 1))


@pytest.mark.parametrize("stored", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_scan_counts_what_the_mask_shows(stored):
    rng = np.random.default_rng(0)
    x, mask = rng.poisson(0.3, (200_000, 7)).astype(np.float32), rng.random((200_000, 7)) < 0.7
    x[5, 2] = np.nan  # checked all the same
    mask[5, 2], codes = False, rng.integers(0, 3, len(x))
    for matrix in (x, sp.csr_matrix(x)):
        found = scan(matrix, codes, 3, stored(mask))
        np.testing.assert_array_equal(found.nonfinite, [5])
        shown = np.where(mask, x, 0)
        by_batch = lambda values: [values[codes == b].sum(axis=0, dtype=float) for b in range(3)]
        np.testing.assert_array_equal(found.measured, by_batch(mask))
        np.testing.assert_array_equal(found.nonzero, by_batch(shown != 0))
        np.testing.assert_allclose(found.feature_totals, by_batch(shown))


def test_an_entry_in_two_parts_is_one():
    x = sp.csr_matrix((np.ones(3), [1, 1, 0], [0, 2, 3]), shape=(2, 2))
    found = scan(x, np.zeros(2, dtype=int), 1)
    np.testing.assert_array_equal(found.nonzero, [[1, 1]])
    np.testing.assert_array_equal(found.feature_totals, [[1, 2]])
    assert x.nnz == 3


def test_sparse_stays_sparse_and_columns_move():
    x = sp.random(40, 200, 0.02, format="csr", random_state=0)
    assert x.nnz < SPARSE_BELOW * 8000
    rows, columns = np.array([7, 7, 0, 39]), np.r_[np.arange(200)[::-1], -1, -1]
    block = read_rows(x, rows, columns)
    assert sp.issparse(block)
    expected = np.c_[x.toarray()[rows][:, ::-1], np.zeros((4, 2))]
    np.testing.assert_allclose(block.toarray(), expected, rtol=1e-6)
    assert to_tensor(block, slice(0, 4)).layout == torch.sparse_csr
    np.testing.assert_array_equal(read_rows(x.toarray(), rows, columns), block.toarray())


# Loaders of scvi-tools


def test_data_splitter_iterates_over_every_cell_once(mosaic, manager_of):
    mosaic.obs["number"] = np.arange(mosaic.n_obs, dtype=float)
    manager = manager_of(mosaic, continuous_covariate_keys=["number"])
    splitter = DataSplitter(manager, train_size=0.7, validation_size=0.2, batch_size=16)
    splitter.setup()
    seen = []
    loaders = (splitter.train_dataloader, splitter.val_dataloader, splitter.test_dataloader)
    for make in loaders:
        for batch in make():
            assert len(batch["X_rna"]) == batch["presence"][:, 0].sum()
            seen += batch["cont_covs"][:, 0].tolist()
    assert len(seen) == mosaic.n_obs
    assert len(set(np.round(seen, 4))) == mosaic.n_obs


@pytest.mark.parametrize("n_labelled", [3, 60])
def test_semi_supervised_splitter(mosaic, n_labelled, manager_of):
    mosaic.obs["few"] = "Unknown"
    chosen = mosaic.obs_names[:n_labelled]
    mosaic.obs.loc[chosen, "few"] = [f"type{i % 3}" for i in range(n_labelled)]
    manager = manager_of(mosaic, labels_key="few")
    splitter = SemiSupervisedDataSplitter(manager, train_size=1.0, batch_size=16)
    splitter.setup()
    n_cells = 0
    loader = splitter.train_dataloader()
    for full, labelled in islice(loader, len(loader)):  # endless, Lightning counts for itself
        n_cells += len(full["batch"])
        assert (labelled["labels"] < 3).all()
        assert set(full) == set(labelled)
    assert n_cells == mosaic.n_obs


def test_external_indices(mosaic, manager_of):
    train, rest = np.arange(70), np.arange(70, 90)
    splitter = DataSplitter(manager_of(mosaic), external_indexing=[train, rest], batch_size=32)
    splitter.setup()
    assert sum(len(batch["batch"]) for batch in splitter.train_dataloader()) == 70


# Memory


def wide_mosaic(n: int = 6000, n_peaks: int = 4000) -> md.MuData:
    """Half of the cells with genes, half with peaks: 96 MB if it were dense, a few if not."""
    rng = np.random.default_rng(0)

    def modality(start, stop, n_vars, density):
        x = sp.random(stop - start, n_vars, density, format="csr", dtype=np.float32, rng=rng)
        x.data[:] = 1
        names = [f"c{i}" for i in range(start, stop)]
        return md.AnnData(x, obs=pd.DataFrame(index=names))

    mods = {"rna": modality(0, n // 2, 500, 0.1), "atac": modality(n // 2, n, n_peaks, 0.02)}
    mods["atac"].var_names = [f"p{i}" for i in range(n_peaks)]
    mdata = md.MuData(mods)
    mdata.obs["batch"] = np.where(np.arange(n) < n // 2, "a", "b")
    return mdata


def test_no_dense_copy(manager_of):
    mdata = wide_mosaic()
    stored = sum(a.X.data.nbytes + a.X.indices.nbytes for a in mdata.mod.values())
    dense = sum(4 * a.n_obs * a.n_vars for a in mdata.mod.values())
    assert dense > 15 * stored
    tracemalloc.start()
    manager = manager_of(mdata, likelihoods={"rna": "bernoulli"})
    kept, _ = tracemalloc.get_traced_memory()
    dataset = manager.create_torch_dataset()
    for start in range(0, mdata.n_obs, 128):
        dataset[np.arange(start, min(start + 128, mdata.n_obs))]
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 0.5 * stored  # names and counts of features
    assert after < 0.5 * stored
    assert peak < 0.1 * dense + 8e6  # blocks of rows


def test_absent_rows_cost_nothing(manager_of):
    dataset = manager_of(wide_mosaic(600), likelihoods={"rna": "bernoulli"}).create_torch_dataset()
    batch = dataset[np.arange(128)]
    assert batch["X_atac"].shape == (0, 4000)
    assert batch["X_atac"].to_dense().numel() == 0
    assert dataset[np.arange(400, 500)]["X_atac"].layout == torch.sparse_csr


@pytest.mark.parametrize("narrow", [np.int32, np.int16])
def test_rows_are_taken_without_a_copy_of_all_indices(narrow):
    """Pointers and indices of unequal type, as anndata reads them from files written in pieces."""
    x = sp.random(5000, 30, density=0.3, format="csr", random_state=0, dtype=np.float32)
    mixed = sp.csr_matrix(x.shape, dtype=x.dtype)
    mixed.data, mixed.indices = x.data, x.indices.astype(narrow)
    mixed.indptr = x.indptr.astype(np.int64)
    reader = row_reader(mixed)
    if narrow == np.int32:
        assert reader.indices.dtype == reader.indptr.dtype
        assert np.shares_memory(reader.indices, mixed.indices)
        assert np.shares_memory(reader.data, mixed.data)
    else:  # more values than the type of the indices can count
        assert x.nnz > np.iinfo(narrow).max
        assert isinstance(reader, RowSpans)
    assert mixed.indptr.dtype == np.int64  # the user's matrix is as it was
    rows = np.random.default_rng(0).permutation(5000)[:200]
    np.testing.assert_array_equal(read_rows(reader, rows).toarray(), x[rows].toarray())
