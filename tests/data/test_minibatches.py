"""A minibatch pairs the right rows, whatever the order of the modalities."""

from __future__ import annotations

import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch

from mumask.data import column_map, presence, row_map


def test_every_value_is_that_of_its_cell(mosaic, names, by_name):
    """The one test that does not compare mumask with itself."""
    batch = by_name(mosaic, names)
    for column, modality in enumerate(mosaic.mod):
        adata = mosaic[modality]
        have = [name for name in names if name in adata.obs_names]
        assert 0 < len(have) < len(names)
        np.testing.assert_array_equal(batch[f"X_{modality}"], adata[have].X.toarray())
        expected = [name in adata.obs_names for name in names]
        np.testing.assert_array_equal(batch["presence"][:, column], expected)
    batches = sorted(set(mosaic.obs["batch"]))
    codes = [batches.index(b) for b in mosaic.obs.loc[names, "batch"]]
    np.testing.assert_array_equal(batch["batch"][:, 0], codes)


def test_types_and_shapes(mosaic, manager_of):
    manager = manager_of(
        mosaic,
        labels_key="some_labels",
        categorical_covariate_keys=["site", "donor"],
        continuous_covariate_keys=["age"],
    )
    batch = manager.create_torch_dataset()[np.arange(50)]
    types = {
        "presence": (torch.bool, (50, 3)),
        "batch": (torch.int64, (50, 1)),
        "labels": (torch.int64, (50, 1)),
        "cat_covs": (torch.int64, (50, 2)),
        "cont_covs": (torch.float32, (50, 1)),
    }
    for key, (dtype, shape) in types.items():
        assert (batch[key].dtype, tuple(batch[key].shape)) == (dtype, shape), key
    for column, modality in enumerate(mosaic.mod):
        values = batch[f"X_{modality}"]
        assert values.dtype == torch.float32
        assert values.shape == (batch["presence"][:, column].sum(), mosaic[modality].n_vars)
    assert set(batch) == {*types, *(f"X_{m}" for m in mosaic.mod)}


def test_unlabelled_cells_have_the_code_behind_the_classes(mosaic, names, by_name):
    codes = by_name(mosaic, names, labels_key="some_labels")["labels"][:, 0]
    classes = ["type0", "type1", "type2", "type3", "Unknown"]
    assert [classes[code] for code in codes] == list(mosaic.obs.loc[names, "some_labels"])


def test_unknown_labels_of_new_data_count_as_none(mosaic, make_mosaic, manager_of):
    manager = manager_of(mosaic, labels_key="some_labels")
    new = make_mosaic(n=4, seed=7)
    new.obs["some_labels"] = ["type1", "a type of its own"] * 6
    codes = manager.transfer_fields(new).create_torch_dataset()[slice(None)]["labels"]
    assert codes[:, 0].tolist() == [1, 4] * 6
    del new.obs["some_labels"]
    codes = manager.transfer_fields(new).create_torch_dataset()[slice(None)]["labels"]
    assert codes[:, 0].tolist() == [4] * 12


def test_continuous_covariates_are_standardised(mosaic, by_name):
    values = by_name(mosaic, mosaic.obs_names, continuous_covariate_keys=["age"])["cont_covs"]
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.std() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("query", [False, True])
def test_covariates_of_new_data_are_on_the_scale_of_the_reference(
    mosaic, make_mosaic, manager_of, query
):
    manager, age = manager_of(mosaic, continuous_covariate_keys=["age"]), mosaic.obs["age"]
    new = make_mosaic(n=4, seed=7)
    new.obs["age"] += 20
    found = manager.transfer_fields(new, query=query).create_torch_dataset()[slice(None)]
    expected = (new.obs["age"] - age.mean()) / age.std(ddof=0)
    np.testing.assert_allclose(found["cont_covs"][:, 0], expected, atol=1e-5)


def test_row_order_of_modalities_does_not_matter(
    mosaic, names, by_name, rebuilt, assert_same_batch
):
    rng = np.random.default_rng(2)
    other = rebuilt(mosaic, lambda adata: adata[rng.permutation(adata.n_obs)].copy())
    assert list(other["rna"].obs_names) != list(mosaic["rna"].obs_names)
    assert_same_batch(by_name(mosaic, names), by_name(other, names))


def test_order_of_modalities_in_the_mudata_does_not_matter(
    mosaic, names, by_name, assert_same_batch
):
    turned = md.MuData({k: mosaic[k].copy() for k in reversed(list(mosaic.mod))})
    turned.obs["batch"] = mosaic.obs["batch"].reindex(turned.obs_names)
    order = ["rna", "protein", "atac"]
    one, other = (by_name(m, names, modalities=order) for m in (mosaic, turned))
    assert_same_batch(one, other)


def test_obsmap_is_not_read(mosaic, names, by_name, assert_same_batch):
    before = by_name(mosaic, names)
    for modality in mosaic.mod:
        mosaic.obsmap[modality] = np.zeros_like(mosaic.obsmap[modality])
    assert_same_batch(before, by_name(mosaic, names))


def test_one_modality_alone(make_mosaic, by_name):
    mdata = make_mosaic(batches={"a": ("rna",), "b": ("rna",)})
    batch = by_name(mdata, mdata.obs_names[::-1])
    assert set(batch) == {"presence", "batch", "X_rna"}
    assert batch["presence"].all()
    x = mdata["rna"][mdata.obs_names[::-1]].X.toarray()
    np.testing.assert_array_equal(batch["X_rna"], x)


def test_modality_absent_from_a_minibatch(mosaic, by_name):
    solo = mosaic.obs_names[(mosaic.obs["batch"] == "solo").to_numpy()]
    batch = by_name(mosaic, solo[:5])
    assert batch["X_rna"].shape == (5, 14)
    assert batch["X_protein"].shape == (0, 6)
    assert batch["X_atac"].shape == (0, 40)


@pytest.mark.parametrize("as_type", [list, np.array, torch.tensor, pd.Index])
def test_kinds_of_index(mosaic, as_type, manager_of):
    dataset = manager_of(mosaic).create_torch_dataset()
    expected = dataset[np.array([5, 2, 70])]
    for key, value in dataset[as_type([5, 2, 70])].items():
        assert torch.equal(value.to_dense(), expected[key].to_dense())
    assert len(dataset[7]["batch"]) == 1
    assert len(dataset[2:9]["batch"]) == 7


def test_subsets(mosaic, manager_of):
    manager = manager_of(mosaic)
    chosen = np.arange(mosaic.n_obs) % 3 == 0
    for indices in (chosen, list(chosen), np.flatnonzero(chosen), list(np.flatnonzero(chosen))):
        subset = manager.create_torch_dataset(indices=indices)
        assert len(subset) == chosen.sum()
        np.testing.assert_array_equal(
            subset[[1, 4]]["X_rna"].to_dense(),
            manager.create_torch_dataset()[[3, 12]]["X_rna"].to_dense(),
        )


def test_chosen_keys(mosaic, manager_of):
    dataset = manager_of(mosaic).create_torch_dataset(data_and_attributes=["X_protein"])
    assert set(dataset[[0, 40]]) == {"presence", "X_protein"}


def test_row_map_and_presence(mosaic):
    rows = row_map(mosaic, "atac")
    for name, row in zip(mosaic.obs_names, rows, strict=True):
        assert (row >= 0) == (name in mosaic["atac"].obs_names)
        assert row < 0 or mosaic["atac"].obs_names[row] == name
    assert (row_map(mosaic, "spatial") == -1).all()
    together = presence(mosaic, ["rna", "spatial", "atac"])
    np.testing.assert_array_equal(together[:, 2], rows >= 0)
    assert not together[:, 1].any()


def test_column_map():
    assert column_map(["a", "b"], ["a", "b"]) is None
    np.testing.assert_array_equal(column_map(["a", "b", "c"], ["c", "x", "a"]), [2, -1, 0])
