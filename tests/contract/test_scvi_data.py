"""What we rely on in scvi-tools and mudata, and why: each test pins one trap.

A failure here after an upgrade says which of our work-arounds to look at; it is no bug by itself.
"""

from __future__ import annotations

import inspect
from itertools import islice

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from scvi.data import AnnDataManager, fields
from scvi.data._manager import AnnDataManagerValidationCheck
from scvi.dataloaders import DataSplitter, SemiSupervisedDataSplitter

from mumask import MaskedVAE
from mumask.data import MosaicManager, keep_order


def manager_of(mdata, **setup):
    MaskedVAE.setup_mudata(mdata, **{"batch_key": "batch", **setup})
    return MaskedVAE._get_most_recent_anndata_manager(mdata, required=True)


@pytest.fixture
def crossed():
    """Two modalities that list the same cells in opposite order; values are the cell's number."""
    names = [f"c{i}" for i in range(6)]

    def modality(cells):
        x = np.array([[float(c[1:]) + 1] for c in cells])
        return ad.AnnData(x, obs=pd.DataFrame(index=cells))

    return md.MuData({"a": modality(names), "b": modality(names[::-1])})


def test_obsmap_is_never_read_by_scvi(crossed):
    """`AnnTorchDataset` takes the same positions in every modality: cells are mixed up."""
    manager = AnnDataManager(
        fields=[
            fields.MuDataLayerField("a", None, mod_key="a", is_count_data=False),
            fields.MuDataLayerField("b", None, mod_key="b", is_count_data=False),
        ],
        setup_method_args={},
    )
    manager.register_fields(crossed)
    batch = manager.create_torch_dataset()[[0, 1]]
    assert not np.array_equal(batch["a"], batch["b"])


def test_obsmap_is_not_needed_by_mumask(crossed):
    crossed.obs["batch"] = list("xyxyxy")
    batch = manager_of(crossed).create_torch_dataset()[[0, 1]]
    np.testing.assert_array_equal(batch["X_a"], batch["X_b"])


def test_manager_constructor_and_transfer(mosaic, make_mosaic):
    """`transfer_fields` calls `self.__class__(fields=, setup_method_args=, validation_checks=)`."""
    parameters = list(inspect.signature(AnnDataManager.__init__).parameters)
    assert parameters[1:4] == ["fields", "setup_method_args", "validation_checks"]
    assert list(inspect.signature(MosaicManager.__init__).parameters) == parameters
    other = manager_of(mosaic).transfer_fields(make_mosaic(5, seed=2))
    assert type(other) is MosaicManager
    assert not other.validation_checks.check_fully_paired_mudata


def test_pairing_check_can_be_switched_off(mosaic):
    """Nothing but this switch lets scvi-tools take cells that lack a modality."""
    paired = AnnDataManagerValidationCheck()
    assert paired.check_fully_paired_mudata
    assert paired.check_if_view
    with pytest.raises(ValueError, match="unpaired"):
        AnnDataManager(fields=[], validation_checks=paired).register_fields(mosaic)


def test_hooks_of_the_manager_exist():
    for name in (
        "_validate_anndata_object",
        "_add_field",
        "create_torch_dataset",
        "get_from_registry",
        "register_fields",
    ):
        ours, theirs = getattr(MosaicManager, name), getattr(AnnDataManager, name)
        assert ours is not theirs
        theirs = inspect.signature(theirs).parameters
        assert len(inspect.signature(ours).parameters) >= len(theirs) - ("kwargs" in theirs)


def test_validate_registers_again(mosaic):
    """After another model's setup, `validate` repeats ours with the same fields."""
    manager = manager_of(mosaic)
    manager_of(mosaic)
    manager.validate()
    assert manager.adata is mosaic
    assert mosaic.uns["_scvi_manager_uuid"] == manager.id


def test_splitter_counts_cells_of_the_mudata(mosaic):
    """`DataSplitter` reads `adata_manager.adata.n_obs`, the union of all modalities."""
    splitter = DataSplitter(manager_of(mosaic), train_size=1.0)
    assert splitter.n_train == mosaic.n_obs == 90


def test_external_indices_have_to_cover_all_cells(mosaic):
    """It raises a `Warning`, which is no subclass of `Exception`'s usual suspects."""
    manager = manager_of(mosaic)
    with pytest.raises(Warning, match="missing indices"):
        DataSplitter(manager, external_indexing=[np.arange(10), np.arange(10, 20)])


def test_semi_supervised_splitter_reads_the_top_level_obs(mosaic):
    """It goes past `get_from_registry` to `adata.obs[original_key]`: labels cannot be elsewhere."""
    manager = manager_of(mosaic, labels_key="some_labels")
    manager.get_from_registry = None
    splitter = SemiSupervisedDataSplitter(manager, train_size=1.0)
    known = (mosaic.obs["some_labels"] != "Unknown").to_numpy()
    np.testing.assert_array_equal(splitter._labeled_indices, np.flatnonzero(known))


def test_semi_supervised_loader_does_not_end_by_itself(mosaic):
    """zip(strict=True) of an endless and a finite loader: only Lightning's count ends it."""
    splitter = SemiSupervisedDataSplitter(
        manager_of(mosaic, labels_key="some_labels"), train_size=1.0, batch_size=32
    )
    splitter.setup()
    loader = splitter.train_dataloader()
    assert len(list(islice(loader, len(loader)))) == 3
    with pytest.raises(ValueError, match="zip"):
        list(loader)


def test_zero_labelled_training_cells_break_the_loader(mosaic):
    """Why no labelled cell is an error of `setup_mudata`."""
    mosaic.obs["none"] = "Unknown"
    with pytest.raises(ValueError, match="nothing to learn"):
        manager_of(mosaic, labels_key="none")


def test_layer_field_raises_where_a_modality_is_absent(mosaic):
    """`MuDataLayerField` cannot transfer to data without the modality; `ModalityField` can."""
    field = fields.MuDataLayerField("x", None, mod_key="spatial", is_count_data=False)
    with pytest.raises(ValueError, match="spatial"):
        field.get_field_data(mosaic)
    manager = manager_of(mosaic)
    del mosaic.mod["atac"]
    rna = md.MuData({"rna": mosaic["rna"].copy()})
    rna.obs["batch"] = "cite"
    batch = manager.transfer_fields(rna).create_torch_dataset()[[0, 1]]
    assert batch["X_atac"].shape == (0, 40)


def test_csr_array_fails_the_count_check_of_scvi():
    """Why counts are checked by us, over all values and for every storage."""
    from scvi.data._utils import _check_nonnegative_integers

    assert inspect.signature(_check_nonnegative_integers).parameters["n_to_check"].default == 20
    x = np.ones((5, 3))
    assert _check_nonnegative_integers(sp.csr_matrix(x))
    with pytest.raises(TypeError):
        _check_nonnegative_integers(sp.csr_array(x))


def test_only_two_keys_in_uns(mosaic):
    manager_of(mosaic)
    keys = {scvi.data._constants._SCVI_UUID_KEY, scvi.data._constants._MANAGER_UUID_KEY}
    assert set(mosaic.uns) == keys


def test_a_copied_view_is_reordered_by_mudata(mosaic):
    """Why `keep_order` exists: without it, results for a view come in the order of its copy."""
    fresh = md.MuData({k: v.copy() for k, v in mosaic.mod.items()})
    view = fresh[np.arange(90)[::-1]]
    with keep_order():
        assert list(view.copy().obs_names) == list(view.obs_names)


def test_a_view_becomes_actual_when_uns_is_written(mosaic):
    """Why `keep_order` is around `register_fields`."""
    view = md.MuData({k: v.copy() for k, v in mosaic.mod.items()})[np.arange(90)[::-1]]
    assert view.is_view
    with keep_order():
        view.uns["x"] = 1
    assert not view.is_view


def test_stale_obsmap_misleads_mudata_itself(crossed):
    """A part of a MuData is cut by obsmap; nothing in mumask can repair that afterwards."""
    crossed.obsmap["b"] = np.asarray(crossed.obsmap["b"])[::-1].copy()
    part = crossed[[0, 1]]
    assert list(part["b"].obs_names) != ["c1", "c0"]
    assert set(part["b"].obs_names) != set(part["a"].obs_names)
