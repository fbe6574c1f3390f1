"""Getters on data that the model has not seen, without mapping it."""

from __future__ import annotations

import logging

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def model(make_mosaic, fit):
    return fit(make_mosaic(), setup={"labels_key": "some_labels"}, epochs=2)


@pytest.fixture
def new(make_mosaic):
    return make_mosaic(n=8, seed=9)


@pytest.fixture
def mapped(new):
    """With an obsmap that is right: mudata itself takes parts of a MuData by it."""
    fresh = md.MuData({k: v.copy() for k, v in new.mod.items()})
    fresh.obs["batch"] = new.obs["batch"].reindex(fresh.obs_names)
    return fresh


def test_new_cells(model, new, unchanged):
    check = unchanged(new)
    assert model.get_latent_representation(new).shape == (24, 4)
    assert list(model.predict(new).index) == list(new.obs_names)
    assert model.impute(new)["atac"].shape == (24, 40)
    check()


def test_new_cells_need_no_labels(model, new):
    expected = model.predict(new, soft=True)
    del new.obs["some_labels"]
    pd.testing.assert_frame_equal(model.predict(new, soft=True), expected)
    new.obs["some_labels"] = "a type of its own"
    pd.testing.assert_frame_equal(model.predict(new, soft=True), expected)


def test_a_cell_is_the_same_in_any_mudata(model, new):
    z = pd.DataFrame(model.get_latent_representation(new), index=new.obs_names)
    names = new.obs_names[[3, 12, 20]]
    few = md.MuData({k: v[v.obs_names.isin(names)].copy() for k, v in new.mod.items()})
    few.obs["batch"] = new.obs["batch"].reindex(few.obs_names)
    part = pd.DataFrame(model.get_latent_representation(few), index=few.obs_names)
    np.testing.assert_allclose(part.loc[names], z.loc[names], atol=1e-5)


def test_a_modality_less(model, new):
    """Cells that lack the modality anyway keep their numbers."""
    z = pd.DataFrame(model.get_latent_representation(new), index=new.obs_names)
    without = md.MuData({k: new[k].copy() for k in ("rna", "protein")})
    without.obs["batch"] = new.obs["batch"].reindex(without.obs_names)
    part = pd.DataFrame(model.get_latent_representation(without), index=without.obs_names)
    same = ~z.index.str.startswith("asap")
    np.testing.assert_allclose(part.loc[z.index[same]], z[same], atol=1e-5)
    full = model.impute(without)
    assert full["atac"].shape == (24, 40)
    assert full["atac"].obs["imputed"].all()


def test_a_modality_that_no_cell_of_the_selection_has(model, mapped):
    solo = mapped[(mapped.obs["batch"] == "solo").to_numpy()].copy()
    assert solo["atac"].n_obs == 0
    assert np.isfinite(model.get_latent_representation(solo)).all()
    assert model.impute(solo)["atac"].shape == (8, 40)


def test_such_a_selection_is_mapped_and_loaded(model, mapped, tmp_path):
    solo = mapped[(mapped.obs["batch"] == "solo").to_numpy()].copy()
    z = model.get_latent_representation(solo)
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model", solo)
    np.testing.assert_allclose(again.get_latent_representation(), z, atol=1e-5)
    query = type(model).load_query_data(solo, model)
    assert query.impute()["atac"].shape == (8, 40)


def test_more_modalities_and_features_than_the_model(model, new):
    z = model.get_latent_representation(new)
    more = {k: v.copy() for k, v in new.mod.items()}
    extra = ad.AnnData(np.ones((24, 3)), obs=pd.DataFrame(index=new.obs_names))
    wide = ad.concat([more["rna"], extra[more["rna"].obs_names]], axis=1)
    wide.var_names = [*new["rna"].var_names, "x0", "x1", "x2"]
    mdata = md.MuData({**more, "rna": wide, "spatial": extra})
    mdata.obs["batch"] = new.obs["batch"].reindex(mdata.obs_names)
    again = model.get_latent_representation(mdata, indices=new.obs_names)
    np.testing.assert_allclose(again, z, atol=1e-5)


def test_views(model, mapped):
    """Results come in the order of the view, which stays a view."""
    new = mapped
    z = pd.DataFrame(model.get_latent_representation(new), index=new.obs_names)
    view = new[np.arange(24)[::-2]]
    order = list(view.obs_names)
    part = model.get_latent_representation(view)
    assert view.is_view
    assert list(view.obs_names) == order
    np.testing.assert_allclose(part, z.loc[order], atol=1e-5)
    assert list(model.predict(view).index) == order
    assert list(model.impute(view).obs_names) == order


def test_modalities_that_are_views(model, new):
    mdata = md.MuData({k: v[::-1] for k, v in new.mod.items()})
    mdata.obs["batch"] = new.obs["batch"].reindex(mdata.obs_names)
    z = model.get_latent_representation(new)
    again = model.get_latent_representation(mdata, indices=new.obs_names)
    np.testing.assert_allclose(again, z, atol=1e-5)


def test_a_copy_of_the_training_data(model):
    copy = model.adata.copy()
    copy["rna"].X = copy["rna"].X[:, ::-1]
    names = model.adata.obs_names
    one = model.get_normalized_expression(modality="protein")
    other = model.get_normalized_expression(copy, indices=names, modality="protein")
    assert not np.allclose(one, other)
    again = model.get_normalized_expression(modality="protein")
    pd.testing.assert_frame_equal(again, one)


# What stops


def test_unseen_batch(model, new):
    new.obs["batch"] = new.obs["batch"].astype(str).replace("cite", "lane9")
    with pytest.raises(ValueError, match=r"batch_key.*lane9.*'cite'.*load_query_data"):
        model.get_latent_representation(new)


def test_missing_batch_key(model, new):
    del new.obs["batch"]
    with pytest.raises(KeyError, match="batch_key.*'batch'"):
        model.get_latent_representation(new)


def test_missing_features(model, new):
    fewer = md.MuData({k: v[:, 2:].copy() for k, v in new.mod.items()})
    fewer.obs["batch"] = new.obs["batch"].reindex(fewer.obs_names)
    with pytest.raises(ValueError, match=r"lacks 2 of the 14.*'rna0'.*load_query_data"):
        model.get_latent_representation(fewer)


def test_values_are_checked(model, new):
    new["rna"].X = new["rna"].X * 0.5
    with pytest.raises(ValueError, match="'rna'.*not whole numbers"):
        model.get_latent_representation(new)


def test_other_modalities(model, new):
    other = md.MuData({"spatial": new["rna"].copy()})
    other.obs["batch"] = "cite"
    with pytest.raises(ValueError, match=r"none of the model's modalities.*'spatial'"):
        model.get_latent_representation(other)


def test_anndata(model, new):
    with pytest.raises(TypeError, match=r"mudata\.MuData"):
        model.get_latent_representation(new["rna"])


def test_refused_data_leave_the_model_alone(model, new, caplog):
    z = model.get_latent_representation()
    new.obs["batch"] = "lane9"
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="lane9"):
        model.predict(new)
    np.testing.assert_array_equal(model.get_latent_representation(), z)
