"""How and where values are stored does not matter for a minibatch."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mumask.data import keep_order
from mumask.data._blocks import RowSpans, read_rows
from mumask.data._scan import scan
from mumask.datasets import simulate_mosaic

STORAGES = {
    "csc": sp.csc_matrix,
    "dense": np.asarray,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
    "float32": lambda x: sp.csr_matrix(x.astype(np.float32)),
    "fortran": np.asfortranarray,
    **{
        dtype: lambda x, dtype=dtype: sp.csr_matrix(x.astype(dtype))
        for dtype in ("int64", "int32", "uint8", "uint16")
    },
    "dense int": lambda x: x.astype(np.int16),
}


@pytest.mark.parametrize("storage", STORAGES)
def test_storage_does_not_matter(make_mosaic, names, storage, by_name, assert_same_batch):
    one, other = make_mosaic(), make_mosaic(storage=STORAGES[storage])
    assert_same_batch(by_name(one, names), by_name(other, names))


def test_booleans_are_binary(make_mosaic, names, by_name, assert_same_batch):
    one, other = make_mosaic(), make_mosaic()
    other["atac"].X = sp.csr_matrix(other["atac"].X.astype(bool))
    assert_same_batch(by_name(one, names), by_name(other, names))


def test_stored_zeros_and_unsorted_indices(
    make_mosaic, names, by_name, manager_of, assert_same_batch
):
    one, other = make_mosaic(), make_mosaic()
    x = other["atac"].X.tolil()
    zeros = np.argwhere(x.toarray() == 0)[::7]
    x = x.tocoo()
    rows, cols = np.r_[x.row, zeros[:, 0]], np.r_[x.col, zeros[:, 1]]
    values = np.r_[x.data, np.zeros(len(zeros))]
    order = np.lexsort((-cols, rows))  # columns backwards in every row
    indptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=x.shape[0]))]
    other["atac"].X = sp.csr_matrix((values[order], cols[order], indptr), shape=x.shape)
    assert other["atac"].X.nnz > one["atac"].X.nnz
    batch = manager_of(other).create_torch_dataset()[np.arange(other.n_obs)]["X_atac"]
    assert (batch.values() if batch.layout == torch.sparse_csr else batch[batch != 0]).all()
    assert_same_batch(by_name(one, names), by_name(other, names))


@pytest.mark.parametrize("columns", [None, np.array([2, -1, 0])])
def test_a_value_stored_in_parts_is_one_value(columns):
    """Else logarithms would be taken of the parts."""
    values = np.array([[3, 0, 5], [0, 2, 0], [0, 0, 4]], dtype=np.float32)
    whole = sp.csr_matrix(values)
    parts = sp.csr_matrix(
        (np.tile(whole.data / 2, (2, 1)).T.ravel(), np.repeat(whole.indices, 2), 2 * whole.indptr),
        whole.shape,
    )
    rows = np.array([2, 0, 2])
    found, expected = read_rows(parts, rows, columns), read_rows(whole, rows, columns)
    assert found.nnz == expected.nnz
    np.testing.assert_array_equal(found.toarray(), expected.toarray())


def test_layers(make_mosaic, names, by_name, assert_same_batch):
    one, other = make_mosaic(), make_mosaic()
    for adata in other.mod.values():
        adata.layers["raw"] = adata.X.copy()
        adata.X = adata.X * 0.5
    layers = dict.fromkeys(other.mod, "raw")
    assert_same_batch(by_name(one, names), by_name(other, names, layers=layers))
    for adata in other.mod.values():
        adata.X = None
    assert_same_batch(by_name(one, names), by_name(other, names, layers=layers))


def test_view_of_a_mudata(mosaic, names, by_name, assert_same_batch):
    before = by_name(mosaic, names)
    parent = list(mosaic.uns)
    mosaic.update()  # mudata itself cuts a view by obsmap
    order = mosaic.obs_names[::-1]
    view = mosaic[np.arange(mosaic.n_obs)[::-1]]
    assert view.is_view
    assert_same_batch(before, by_name(view, names))
    assert list(view.obs_names) == list(order)
    assert list(mosaic.uns) == parent


def test_modalities_that_are_views(mosaic, names, by_name, assert_same_batch):
    views = md.MuData({k: v[::-1] for k, v in mosaic.mod.items()})
    views.obs["batch"] = mosaic.obs["batch"].reindex(views.obs_names)
    assert all(adata.is_view for adata in views.mod.values())
    assert_same_batch(by_name(mosaic, names), by_name(views, names))


@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_backed_file(make_mosaic, names, storage, tmp_path, by_name, assert_same_batch):
    mosaic = make_mosaic(storage=storage)
    mosaic.write(tmp_path / "m.h5mu")
    before = (tmp_path / "m.h5mu").read_bytes()
    backed = md.read_h5mu(tmp_path / "m.h5mu", backed="r")
    assert backed["rna"].isbacked
    assert_same_batch(by_name(mosaic, names), by_name(backed, names))
    backed.file.close()
    assert (tmp_path / "m.h5mu").read_bytes() == before


@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_features_are_matched_by_name(
    make_mosaic, names, storage, by_name, manager_of, rebuilt, assert_same_batch
):
    """Values, and which of them were measured."""
    mosaic, rng = make_mosaic(storage=storage), np.random.default_rng(3)
    mosaic["protein"].layers["seen"] = storage(rng.random(mosaic["protein"].shape) < 0.7)
    masked = {"mask_layers": {"protein": "seen"}}
    manager = manager_of(mosaic, **masked)

    def shuffle(adata):
        return adata[:, rng.permutation(adata.n_vars)].copy()

    other = rebuilt(mosaic, shuffle)
    assert list(other["rna"].var_names) != list(mosaic["rna"].var_names)
    batch = manager.transfer_fields(other).create_torch_dataset()
    found = batch[other.obs_names.get_indexer(names)]
    found = {k: v.to_dense().numpy() for k, v in found.items()}
    assert_same_batch(by_name(mosaic, names, **masked), found)


@pytest.mark.parametrize("storage", [sp.csr_matrix, np.asarray])
def test_mask_layers(make_mosaic, names, storage, by_name):
    mosaic = make_mosaic(storage=storage)
    seen = np.random.default_rng(4).random(mosaic["protein"].shape) < 0.7
    mosaic["protein"].layers["seen"] = storage(seen)
    batch = by_name(mosaic, names, mask_layers={"protein": "seen"})
    have = [name for name in names if name in mosaic["protein"].obs_names]
    rows = mosaic["protein"].obs_names.get_indexer(have)
    assert batch["mask_protein"].dtype == bool
    np.testing.assert_array_equal(batch["mask_protein"], seen[rows])
    assert "mask_rna" not in batch


@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_data_are_read_as_they_are_now(make_mosaic, names, storage, manager_of):
    """Changing the MuData after registration must not mix old rows with new ones."""
    mosaic = make_mosaic(storage=storage)
    manager = manager_of(mosaic)
    manager.create_torch_dataset()[[0]]
    mosaic.mod["rna"] = mosaic["rna"][::-1].copy()
    mosaic.mod["rna"].X = mosaic["rna"].X * 2
    found = manager.create_torch_dataset()[mosaic.obs_names.get_indexer(names)]["X_rna"]
    have = [name for name in names if name in mosaic["rna"].obs_names]
    x = mosaic["rna"][have].X
    np.testing.assert_array_equal(found.to_dense(), x.toarray() if sp.issparse(x) else x)


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float32"])
def test_a_check_changes_no_value_of_the_user(dtype):
    """Zeros that are stored stay so, also where a block is a view of the matrix."""
    x = sp.random(50, 20, 0.3, format="csr", random_state=0)
    x.data = np.ceil(3 * x.data)
    dense, codes = x.toarray().astype(dtype), np.zeros(50, dtype=int)
    x.data[::4] = 0.0
    data, indices = x.data.copy(), x.indices.copy()
    found = scan(RowSpans(x.shape, x.indptr, x.indices, x.data), codes, 1)
    np.testing.assert_array_equal(x.data, data)
    np.testing.assert_array_equal(x.indices, indices)
    np.testing.assert_array_equal(found.nonzero[0], (x.toarray() > 0).sum(axis=0))
    np.testing.assert_array_equal(scan(dense, codes, 1).nonzero[0], (dense > 0).sum(axis=0))


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_whole_numbers_by_cell_and_feature_are_kept(kind, tmp_path):
    """Such as places in pixels: the update of mudata that keeps the order writes NaN into them."""
    mosaic = simulate_mosaic(10, n_features={"rna": 20, "protein": 5, "atac": 30})
    numbers = np.arange(2 * mosaic.n_obs, dtype="int32").reshape(-1, 2)
    mosaic.obsm["spatial"] = kind(numbers)
    mosaic.varm["ranks"] = kind(np.arange(mosaic.n_vars)[:, None])
    mosaic.write_h5mu(tmp_path / "mosaic.h5mu")
    cells = np.arange(mosaic.n_obs)[::-3]
    with keep_order():
        part, read = mosaic[cells].copy(), md.read_h5mu(tmp_path / "mosaic.h5mu")
        for mdata, rows in ((part, cells), (read, slice(None))):
            assert mdata.obsm["spatial"].dtype == numbers.dtype
            np.testing.assert_array_equal(mdata.obsm["spatial"] @ np.eye(2), numbers[rows])
            assert mdata.varm["ranks"].dtype == mosaic.varm["ranks"].dtype


def test_whole_numbers_of_new_cells_are_missing(make_mosaic):
    mosaic = make_mosaic(20, {"one": ("rna",)})
    mosaic.obsm["spatial"] = np.arange(20)[:, None]
    more = mosaic["rna"].copy()
    more.obs_names = [f"new_{name}" for name in more.obs_names]
    with keep_order():
        mosaic.mod["more"] = more
        mosaic.update()
    places = np.ma.filled(mosaic.obsm["spatial"].astype(float), np.nan)  # masked from mudata 0.4 on
    assert np.isnan(places).sum() == 20
    assert np.nansum(places) == 190
