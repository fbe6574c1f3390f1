"""Wrong turns that users take with a model, each with a message that names the way out."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pandas as pd
import pytest

import mumask
from mumask import CrossAttentionMAE, MaskedVAE
from mumask.data import keys


@pytest.mark.parametrize("cls", [MaskedVAE, CrossAttentionMAE])
def test_setup_was_forgotten(mosaic, cls):
    with pytest.raises(ValueError, match=rf"{cls.__name__}\.setup_mudata\(mdata"):
        cls(mosaic)
    with pytest.raises(TypeError, match="Wrap an AnnData"):
        cls(mosaic["rna"])


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.get_latent_representation(),
        lambda m: m.impute(),
        lambda m: m.predict(),
        lambda m: m.differential_expression(groupby="batch", silent=True),
    ],
)
def test_training_was_forgotten(mosaic, ask):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", labels_key="some_labels")
    with pytest.raises(RuntimeError, match="train"):
        ask(MaskedVAE(mosaic, n_hidden=8, n_latent=3))


@pytest.mark.parametrize(
    ("setup", "says"),
    [
        ({"batchkey": "batch"}, r"no argument 'batchkey'.*'batch_key'"),
        ({"layers": "counts"}, r"`layers` goes by modality: layers=\{'rna': 'counts'\}"),
        ({"likelihoods": "nb"}, r"likelihoods=\{'rna': 'nb'\}"),
        ({"modalities": {"rna_layer": "rna"}}, r"`modalities` is a list.*\['rna'\]"),
        ({"categorical_covariate_keys": "site"}, r"categorical_covariate_keys=\['site'\]"),
    ],
)
def test_arguments_of_the_wrong_kind(mosaic, setup, says):
    with pytest.raises(TypeError, match=says):
        MaskedVAE.setup_mudata(mosaic, **setup)


def test_lists_come_in_many_types(mosaic):
    MaskedVAE.setup_mudata(
        mosaic,
        modalities=np.array(["rna", "protein", "atac"]),
        categorical_covariate_keys=pd.Index(["site"]),
        continuous_covariate_keys=pd.Series(["age"]),
    )
    assert MaskedVAE(mosaic).modalities == ["rna", "protein", "atac"]


def test_marks_of_cells_without_a_label(mosaic, fit):
    mosaic.obs["mark"] = np.where(np.arange(mosaic.n_obs) % 3, 1.0 * (mosaic.obs["age"] > 50), -1.0)
    model = fit(mosaic, setup={"labels_key": "mark", "unlabeled_category": -1.0}, epochs=1)
    assert list(model.classes) == ["0", "1"]
    mosaic.obs["other"] = mosaic.obs["some_labels"].replace("Unknown", "unknown")
    with pytest.warns(UserWarning, match=r"\['unknown'\].*unlabeled_category='unknown'"):
        MaskedVAE.setup_mudata(mosaic, labels_key="other")
    with pytest.raises(ValueError, match="`unlabeled_category`"):
        MaskedVAE.setup_mudata(mosaic, labels_key="cell_type", unlabeled_category=None)


def test_a_column_that_is_there_twice(mosaic):
    mosaic.obs = pd.concat([mosaic.obs, mosaic.obs[["batch"]]], axis=1)
    with pytest.raises(ValueError, match="2 columns named 'batch'"):
        MaskedVAE.setup_mudata(mosaic, batch_key="batch")


@pytest.mark.parametrize("kind", ["float16", ">f4"])
def test_rare_kinds_of_numbers(mosaic, fit, kind):
    mosaic["rna"].X = mosaic["rna"].X.toarray().astype(kind)
    model = fit(mosaic, epochs=1)
    assert np.isfinite(model.get_latent_representation()).all()


def test_nothing_to_validate_on(mosaic):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    with pytest.raises(ValueError, match="`train_size` and `validation_size`"):
        MaskedVAE(mosaic).train(max_epochs=1, train_size=1, early_stopping=True)


def test_not_a_mudata(mosaic, fit, tmp_path):
    model = fit(mosaic, epochs=1)
    model.save(tmp_path / "model")
    for other in (mosaic["rna"], "query.h5mu"):
        with pytest.raises(TypeError, match="Expected a MuData"):
            MaskedVAE.load_query_data(other, model)
        with pytest.raises(TypeError, match="Expected a MuData"):
            MaskedVAE.prepare_query_mudata(other, model)
        with pytest.raises(TypeError, match="Expected a MuData"):
            MaskedVAE.load(tmp_path / "model", other)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        model.save(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_odd_questions(mosaic, fit):
    mosaic.obs["empty"] = np.nan
    model = fit(mosaic, epochs=1)
    ask = lambda **kwargs: model.differential_expression(silent=True, **kwargs)
    with pytest.raises(ValueError, match="'empty' is empty"):
        ask(groupby="empty")
    with pytest.raises(ValueError, match="`group1` is empty"):
        ask(groupby="batch", group1=[])
    with pytest.raises(ValueError, match=r"`idx1`: 'nope > 3'.*'site'"):
        ask(idx1="nope > 3")
    with pytest.raises(ValueError, match="`batchid2`: 'other'"):
        ask(idx1="batch == 'cite'", batch_correction=True, batchid1="cite", batchid2="other")
    one = ask(idx1="batch == 'cite'", batch_correction=True, batchid1="cite", batchid2="cite")
    assert len(one) == model.module.n_features["rna"]
    with pytest.raises(TypeError, match="`modalities` is a list"):
        model.impute(modalities="protein")
    chosen = (mosaic.obs["batch"] == "cite").to_numpy()
    as_objects = model.get_latent_representation(indices=chosen.astype(object))
    np.testing.assert_array_equal(as_objects, model.get_latent_representation(indices=chosen))


def test_a_covariate_by_its_number(mosaic, fit):
    mosaic.obs["number"] = mosaic.obs["batch"].map({"cite": 0.0, "asap": 1.0, "solo": 2.0})
    model = fit(mosaic, setup={"batch_key": "number"}, epochs=1)
    one, two = (model.predict_condition({"number": value}) for value in (1.0, "1"))
    pd.testing.assert_frame_equal(one, two)


def test_views_are_not_kept(fit):
    mdata = mumask.datasets.simulate_mosaic(20, n_features={"rna": 30, "protein": 5, "atac": 30})
    model = fit(mdata, epochs=1)
    store = model._per_instance_manager_store[model.id]
    expected = model.get_latent_representation(indices=np.arange(20))
    seen = []
    for _ in range(3):
        found = model.get_latent_representation(mdata[:20])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        seen.append(weakref.ref(store[model._last_copy].adata))
    gc.collect()
    assert len(store) == 2 and [ref() is not None for ref in seen] == [False, False, True]


def test_a_loader_of_codes_alone(mosaic, fit):
    model = fit(mosaic, epochs=1)
    loader = mumask.data.MosaicLoader(model.adata_manager, data_and_attributes=[keys.BATCH])
    assert sum(len(batch[keys.BATCH]) for batch in loader) == mosaic.n_obs
    with pytest.raises(KeyError, match="'X' was not registered"):
        model.adata_manager.get_from_registry("X")


def test_imputed_data_keep_their_annotation(trained):
    mdata = trained.adata
    mdata.obsm["X_umap"] = np.arange(2.0 * mdata.n_obs).reshape(-1, 2)
    rna = mdata["rna"]
    rna.obs["depth"] = np.asarray(rna.X.sum(1)).ravel()
    rna.obsm["spatial"] = np.arange(2 * rna.n_obs).reshape(-1, 2)
    cells = np.r_[80:90, 3, 1]
    complete = trained.impute(indices=cells)
    np.testing.assert_array_equal(complete.obsm["X_umap"], mdata.obsm["X_umap"][cells])
    names = mdata.obs_names[cells]
    there = names.isin(rna.obs_names)
    rows = rna.obs_names.get_indexer(names[there])
    places = complete["rna"].obsm["spatial"]
    np.testing.assert_array_equal(places[there], rna.obsm["spatial"][rows])
    assert np.isnan(places[~there]).all()
    np.testing.assert_array_equal(complete["rna"].obs["depth"][there], rna.obs["depth"].iloc[rows])
    np.testing.assert_array_equal(complete["rna"].obs["imputed"], ~there)
    assert complete["protein"].varm["imputed"]["cite"].tolist() == [True, True, *[False] * 4]
    assert "imputed" not in complete["rna"].varm
    del mdata.obsm["X_umap"], rna.obsm["spatial"], rna.obs["depth"]
