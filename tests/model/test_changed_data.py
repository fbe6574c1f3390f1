"""Data that changed after a model was made: the model keeps its names, or says what is wrong."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp

from mumask import MaskedVAE


@pytest.fixture
def model(mosaic, fit):
    return fit(mosaic, setup={"labels_key": "cell_type"}, epochs=2)


def test_another_setup_leaves_a_model_its_names(model):
    """Categories are renamed so that their order turns round, and a second model is set up."""
    mdata = model.adata
    classes, batches, labels = model.classes, model.batches, model.predict()
    expression = model.get_normalized_expression(transform_batch="cite")
    turned = {name: f"{9 - number}{name}" for number, name in enumerate(classes)}
    mdata.obs["cell_type"] = mdata.obs["cell_type"].astype(str).map(turned)
    MaskedVAE.setup_mudata(mdata, labels_key="cell_type")
    assert MaskedVAE(mdata).classes == sorted(turned.values())
    assert model.predict().equals(labels)
    assert (model.classes, model.batches) == (classes, batches)
    assert model.get_normalized_expression(transform_batch="cite").equals(expression)


@pytest.mark.parametrize("again", [False, True])
def test_a_batch_that_the_model_does_not_know(model, again):
    mdata, before = model.adata, model.get_latent_representation()
    mdata.obs["known"] = mdata.obs["batch"]
    mdata.obs["batch"] = mdata.obs["batch"].astype(str).replace("cite", "other")
    if again:
        MaskedVAE.setup_mudata(mdata)
    with pytest.raises(ValueError, match=r"\['other'\] of 'batch' are not among the categories"):
        model.get_latent_representation()
    mdata.obs["batch"] = mdata.obs["known"]  # the model is as it was
    np.testing.assert_array_equal(model.get_latent_representation(), before)


def test_a_query_keeps_its_batches(model, make_mosaic):
    """They are known to its model alone."""
    query = md.MuData({"rna": make_mosaic(10, {"new": ("rna",)}, seed=3)["rna"]})
    query.obs["batch"] = "new"
    mapped = MaskedVAE.load_query_data(query, model)
    before = mapped.get_latent_representation()
    MaskedVAE.setup_mudata(query)
    np.testing.assert_array_equal(mapped.get_latent_representation(), before)
    query.obs["batch"] = "other"
    MaskedVAE.setup_mudata(query)
    with pytest.raises(ValueError, match=r"\['other'\] of 'batch' are not among the categories"):
        mapped.get_latent_representation()


@pytest.mark.parametrize("again", [False, True])
def test_features_that_went_are_no_zeros(model, again):
    mdata = model.adata
    mdata.mod["rna"] = mdata["rna"][:, :10].copy()
    mdata.update()
    if again:
        MaskedVAE.setup_mudata(mdata)
    with pytest.raises(ValueError, match="'rna' lacks 4 of the 14 features.*'rna10'"):
        model.get_latent_representation()


def test_a_subset_without_a_modality_is_mapped_and_loaded(model, tmp_path):
    """A subset of a MuData keeps modalities that none of its cells has."""
    names = model.adata.obs_names[model.adata.obs["batch"] == "solo"]
    parts = {m: a[a.obs_names.isin(names)].copy() for m, a in model.adata.mod.items()}
    solo = md.MuData(parts)
    solo.obs = model.adata.obs.loc[solo.obs_names].copy()
    assert (solo.n_obs, solo["protein"].n_obs) == (30, 0)
    expected = model.get_latent_representation(indices=solo.obs_names)
    np.testing.assert_allclose(model.get_latent_representation(solo), expected, atol=1e-5)
    model.save(tmp_path / "m")
    loaded = MaskedVAE.load(tmp_path / "m", solo.copy())
    np.testing.assert_allclose(loaded.get_latent_representation(), expected, atol=1e-5)
    mapped = MaskedVAE.load_query_data(solo, model)
    np.testing.assert_allclose(mapped.get_latent_representation(), expected, atol=1e-5)
    assert mapped.get_normalized_expression(modality="protein").notna().all(axis=None)


def test_values_changed_in_place_are_read_again(make_mosaic, fit):
    """A CSC matrix is converted once; scanpy normalises, and users correct, within the matrix."""
    model = fit(make_mosaic(storage=sp.csc_matrix), epochs=1)
    rna = model.adata["rna"]
    model.impute(modalities=["rna"])
    rna.X.data *= 2
    complete = model.impute(modalities=["rna"])["rna"][rna.obs_names]
    np.testing.assert_array_equal(complete.X, rna.X.toarray())
    rna.X.data /= 3
    with pytest.raises(ValueError, match="'rna' no longer holds the count values"):
        model.get_latent_representation()


def test_a_mudata_without_cells(model):
    empty = model.adata[:0].copy()
    with pytest.raises(ValueError, match="The MuData has no cell"):
        model.get_latent_representation(empty)
    assert model.get_latent_representation(indices=[]).shape == (0, model.module.n_latent)


def test_values_of_a_csc_matrix_may_lie_apart_in_memory(make_mosaic, fit):
    """The checksum of its values wants them in one piece; scipy does not."""
    mdata = make_mosaic(storage=sp.csc_matrix)
    expected = fit(mdata, epochs=1).get_latent_representation()
    x = mdata["rna"].X
    x.data = np.repeat(x.data, 2)[::2]
    assert not x.data.flags.c_contiguous
    found = fit(mdata, epochs=1).get_latent_representation()
    assert found.shape == expected.shape
