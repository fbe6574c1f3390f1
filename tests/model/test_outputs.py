"""What the getters return: shapes, names, types, sources, batches, subsets of cells."""

from __future__ import annotations

import mudata as md
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

N, CLASSES = 90, ["type0", "type1", "type2", "type3"]


def cells_with(model, *modalities):
    return np.all([model.adata.obs_names.isin(model.adata[m].obs_names) for m in modalities], 0)


# Latent space


def test_latent(trained):
    z = trained.get_latent_representation()
    assert isinstance(z, np.ndarray)
    assert (z.shape, z.dtype) == ((N, 4), np.float32)
    assert np.isfinite(z).all()
    np.testing.assert_array_equal(z, trained.get_latent_representation())
    np.testing.assert_allclose(z, trained.get_latent_representation(batch_size=7), atol=1e-5)


def test_latent_distribution(trained):
    mean, variance = trained.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(mean, trained.get_latent_representation())
    assert variance.shape == mean.shape
    assert (variance > 0).all()
    tensors = trained.adata_manager.create_torch_dataset()[np.arange(N)]
    with torch.no_grad():
        log_var = trained.module.inference(tensors, sample=False)["log_var"]
    np.testing.assert_allclose(variance, log_var.exp(), rtol=1e-4)


def test_corrected_latent_is_the_mean_minus_the_covariates(trained):
    z2, mu = (trained.get_latent_representation(corrected=c) for c in (True, False))
    tensors = trained.adata_manager.create_torch_dataset()[np.arange(N)]
    with torch.no_grad():
        e = trained.module.latent_covariates(**trained.module.covariates(tensors)).numpy()
    assert np.abs(e).max() > 0.01
    np.testing.assert_allclose(z2, mu - e, atol=1e-5)


def test_latent_from_a_source(trained):
    with pytest.warns(UserWarning, match="30 cells have none of the source modalities 'rna'"):
        z = trained.get_latent_representation(source="rna")
    have = cells_with(trained, "rna")
    np.testing.assert_array_equal(np.isnan(z).any(1), ~have)
    joint = trained.get_latent_representation()
    alone = have & ~cells_with(trained, "protein")
    np.testing.assert_allclose(z[alone], joint[alone], atol=1e-5)
    both = have & ~alone
    assert (np.abs(z[both] - joint[both]).max(1) > 1e-4).all()
    every = trained.get_latent_representation(source=["atac", "rna", "protein"])
    np.testing.assert_array_equal(every, joint)


@pytest.mark.parametrize("getter", ["get_latent_representation", "predict", "get_elbo"])
def test_empty_selection(trained, getter):
    result = getattr(trained, getter)(indices=[])
    assert np.isnan(result) if getter == "get_elbo" else len(result) == 0


# Indices


def test_kinds_of_indices(trained):
    z, names = trained.get_latent_representation(), trained.adata.obs_names
    chosen = np.array([80, 3, 3, 41])
    mask = np.arange(N) % 4 == 1
    cases = [
        (chosen, chosen),
        (list(chosen), chosen),
        (chosen - N, chosen),
        (names[chosen], chosen),
        (list(names[chosen]), chosen),
        (mask, np.flatnonzero(mask)),
        (list(mask), np.flatnonzero(mask)),
        (pd.Series(mask, index=names), np.flatnonzero(mask)),
        (pd.Series(mask, index=names)[::-1], np.flatnonzero(mask)),
        (pd.Series(True, index=names[[41, 3]]), [3, 41]),
        (np.flatnonzero(mask)[:, None], np.flatnonzero(mask)),
        (names[7], [7]),
        (7, [7]),
        (np.int64(-1), [N - 1]),
        (slice(3, 40, 9), np.arange(3, 40, 9)),
        (slice(-5, None), np.arange(N - 5, N)),
    ]
    for indices, expected in cases:
        part = trained.get_latent_representation(indices=indices)
        np.testing.assert_allclose(part, z[expected], atol=1e-5)
    frame = trained.get_normalized_expression(indices=chosen, modality="rna")
    assert list(frame.index) == list(names[chosen])


@pytest.mark.parametrize(
    ("indices", "error", "says"),
    [
        ([True, False], IndexError, "2 booleans.*90 cells"),
        (["nobody"], KeyError, "no cell named 'nobody'"),
        ("nobody", KeyError, "no cell named 'nobody'"),
        (True, ValueError, "1 booleans"),
        (90, IndexError, "90"),
        ([90], IndexError, "90"),
        ([-91], IndexError, "90"),
        ([0.5], IndexError, "whole numbers"),
    ],
)
def test_indices_that_do_not_exist(trained, indices, error, says):
    with pytest.raises((error, ValueError), match=says):
        trained.get_latent_representation(indices=indices)


# Decoded values


@pytest.mark.parametrize("modality", ["rna", "protein", "atac"])
def test_normalized_expression(trained, modality):
    frame = trained.get_normalized_expression(modality=modality)
    assert list(frame.index) == list(trained.adata.obs_names)
    assert list(frame.columns) == list(trained.adata[modality].var_names)
    assert (frame.dtypes == np.float32).all()
    assert np.isfinite(frame.to_numpy()).all()
    assert (frame.to_numpy() >= 0).all()
    if modality == "atac":
        assert (frame.to_numpy() <= 1).all()
    else:
        total = frame.sum(axis=1)
        np.testing.assert_allclose(total, total.iloc[0], rtol=1e-3)
        larger = trained.get_normalized_expression(modality=modality, library_size=1e4)
        np.testing.assert_allclose(larger.sum(axis=1), 1e4, rtol=1e-3)


def test_first_modality_is_the_default(trained):
    assert list(trained.get_normalized_expression().columns) == list(trained.adata["rna"].var_names)


@pytest.mark.parametrize("features", [["protein4", "protein0"], "protein4"])
def test_features(trained, features):
    full = trained.get_normalized_expression(modality="protein")
    part = trained.get_normalized_expression(modality="protein", features=features)
    wanted = [features] if isinstance(features, str) else features
    pd.testing.assert_frame_equal(part, full[wanted])


def test_translation(trained):
    with pytest.warns(UserWarning, match="60 cells have none of the source modalities 'atac'"):
        frame = trained.get_normalized_expression(modality="rna", source="atac")
    have = cells_with(trained, "atac")
    np.testing.assert_array_equal(frame.notna().all(axis=1), have)
    np.testing.assert_array_equal(frame.isna().all(axis=1), ~have)


def test_transform_batch(trained):
    own = trained.get_normalized_expression(modality="protein")
    as_batch = {
        b: trained.get_normalized_expression(modality="protein", transform_batch=b)
        for b in trained.batches
    }
    batches = trained.adata.obs["batch"].to_numpy()
    for batch, frame in as_batch.items():
        at = batches == batch
        np.testing.assert_allclose(frame[at], own[at], rtol=1e-4)
        assert not np.allclose(frame[~at], own[~at], rtol=1e-4)
    mean = trained.get_normalized_expression(modality="protein", transform_batch=["cite", "asap"])
    np.testing.assert_allclose(mean, (as_batch["cite"] + as_batch["asap"]) / 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"modality": "spatial"}, ValueError, "'spatial'.*'atac'"),
        ({"source": "spatial"}, ValueError, "'spatial'.*'atac'"),
        ({"source": []}, ValueError, "source"),
        ({"transform_batch": "lane9"}, ValueError, "transform_batch.*'lane9'.*'solo'"),
        ({"transform_batch": 9}, ValueError, "transform_batch.*9"),
        ({"modality": "rna", "features": ["XIST"]}, KeyError, "features.*'rna'.*XIST"),
    ],
)
def test_names_that_do_not_exist(trained, arguments, error, says):
    with pytest.raises(error, match=says):
        trained.get_normalized_expression(**arguments)


# Imputation


def test_impute_keeps_what_was_measured(trained):
    mdata = trained.adata
    full = trained.impute()
    assert list(full.obs_names) == list(mdata.obs_names)
    for column in mdata.obs:
        assert list(full.obs[column]) == list(mdata.obs[column]), column
    for name, adata in full.mod.items():
        assert list(adata.obs_names) == list(mdata.obs_names)
        assert list(adata.var_names) == list(mdata[name].var_names)
        assert adata.X.dtype == np.float32
        assert np.isfinite(adata.X).all()
        there = cells_with(trained, name)
        np.testing.assert_array_equal(adata.obs["imputed"], ~there)
        names = mdata.obs_names[there]
        old, new = mdata[name][names].X.toarray(), adata[names].X
        measured = np.ones(old.shape, dtype=bool)
        if name == "rna":
            measured = np.asarray(mdata["rna"][names].layers["seen"])
        if name == "protein":
            measured[mdata.obs.loc[names, "batch"] == "cite", :2] = False
        np.testing.assert_array_equal(new[measured], old[measured])
        assert (new[~measured] > 0).all()
        assert (adata.X[~there] > 0).all()


def test_panel_is_imputed_at_the_depth_of_the_cell(trained):
    """Measured counts of a cell tell how many of the others there would have been."""
    cite = trained.adata.obs["batch"].to_numpy() == "cite"
    full = trained.impute(indices=cite, modalities=["protein"])["protein"]
    decoded = trained.get_normalized_expression(indices=cite, modality="protein").to_numpy()
    depth = full.X[:, 2:].sum(1) / decoded[:, 2:].sum(1)
    np.testing.assert_allclose(full.X[:, :2], decoded[:, :2] * depth[:, None], rtol=1e-3)


def test_impute_a_part(trained):
    names = trained.adata.obs_names[[50, 2, 88]]
    part = trained.impute(indices=names, modalities=["atac"])
    assert list(part.mod) == ["atac"]
    assert list(part.obs_names) == list(names)
    for column in ("batch", "site", "age"):
        assert list(part.obs[column]) == list(trained.adata.obs.loc[names, column])
    full = trained.impute()["atac"][names].X
    np.testing.assert_allclose(part["atac"].X, full, atol=1e-5)
    assert len(trained.impute(indices=[]).obs_names) == 0
    as_cite = trained.impute(transform_batch="cite")["atac"].X
    assert not np.allclose(as_cite, trained.impute()["atac"].X)


# Labels


def test_predictions(trained):
    hard, soft = trained.predict(), trained.predict(soft=True)
    assert hard.name == "mumask_label"
    assert list(hard.cat.categories) == list(soft.columns) == CLASSES
    assert list(hard.index) == list(soft.index) == list(trained.adata.obs_names)
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-5)
    assert list(hard) == list(soft.idxmax(axis=1))
    uncertainty = trained.get_label_uncertainty()
    assert uncertainty.name == "mumask_uncertainty"
    p = soft.to_numpy(dtype=float)
    entropy = -(p * np.log(p.clip(1e-12))).sum(1) / np.log(4)
    np.testing.assert_allclose(uncertainty, entropy, atol=1e-6)


def test_predictions_from_a_source(trained):
    have = cells_with(trained, "protein")
    with pytest.warns(UserWarning, match="30 cells"):
        hard = trained.predict(source="protein")
    np.testing.assert_array_equal(hard.isna(), ~have)
    with pytest.warns(UserWarning, match="30 cells"):
        uncertainty = trained.get_label_uncertainty(source="protein")
    np.testing.assert_array_equal(uncertainty.isna(), ~have)


def test_labelled_cells_are_learned(trained):
    labels = trained.adata.obs["some_labels"].astype(str)
    known = (labels != "Unknown").to_numpy()
    assert (trained.predict().astype(str)[known] == labels[known]).mean() > 0.5


# Scores


def test_scores(trained):
    assert np.isfinite(trained.get_elbo())
    error = trained.get_reconstruction_error()
    assert set(error) == {"rna", "protein", "atac"}
    assert all(value > 0 for value in error.values())
    from_atac = trained.get_reconstruction_error(source="atac")
    assert set(from_atac) == {"protein", "atac"}
    solo = trained.adata.obs["batch"].to_numpy() == "solo"
    assert set(trained.get_reconstruction_error(indices=solo)) == {"rna"}
    part = trained.get_reconstruction_error(indices=np.arange(N) % 2 == 0)["atac"]
    rest = trained.get_reconstruction_error(indices=np.arange(N) % 2 == 1)["atac"]
    assert min(part, rest) < error["atac"] < max(part, rest)


def test_the_bound_is_lower_by_every_divergence(trained, monkeypatch):
    scvi.settings.seed = 0
    bound, divergence = trained.get_elbo(), trained.module.divergence

    def larger(*posterior):
        terms, weighted = divergence(*posterior)
        assert set(terms) == {"kl_z", "kl_clusters"}
        return {name: term + 5 for name, term in terms.items()}, weighted

    monkeypatch.setattr(trained.module, "divergence", larger)
    scvi.settings.seed = 0
    assert trained.get_elbo() == pytest.approx(bound - 10, rel=1e-4)


def test_names(trained):
    assert trained.modalities == ["rna", "protein", "atac"]
    assert trained.batches == ["asap", "cite", "solo"]
    assert trained.classes == CLASSES
    assert list(trained.feature_names("protein")) == [f"protein{i}" for i in range(6)]
    assert "rna" in str(trained.get_var_names())
    trained.view_anndata_setup()
    assert trained.summary_stats["n_batch"] == 3


def test_an_imputed_mosaic_can_be_written(trained, tmp_path):
    """With gaps in what is known of features, and types of columns that have gaps."""
    mdata = trained.adata.copy()
    part = mdata.mod["rna"][:, 2:].copy()
    part.var["highly_variable"] = True
    query = md.MuData({"rna": part})
    query.obs = query.obs.join(mdata.obs[["batch", "site", "donor", "age"]])
    query.obs["flag"] = pd.array([None] + [True] * (query.n_obs - 1), dtype="boolean")
    mapped = type(trained).load_query_data(query, trained)
    full = mapped.impute()
    assert full.obs["flag"].dtype == "boolean"
    assert full.obs["site"].dtype == query.obs["site"].dtype
    full.write(tmp_path / "full.h5mu")
    read = md.read_h5mu(tmp_path / "full.h5mu")
    assert read["rna"].var["highly_variable"].isna().sum() == 2


def test_a_cell_of_which_nothing_was_measured_is_imputed_at_the_expected_depth(make_mosaic, fit):
    mosaic = make_mosaic()
    seen = np.ones(mosaic["rna"].shape, dtype=bool)
    seen[0] = False
    mosaic["rna"].layers["seen"] = seen
    model = fit(mosaic, setup={"mask_layers": {"rna": "seen"}}, epochs=2)
    cell = [mosaic["rna"].obs_names[0]]
    imputed = model.impute(indices=cell)["rna"].X
    assert imputed.sum() > 1


def test_a_library_size_is_a_number(trained):
    with pytest.raises(TypeError, match="library_size.*'latent'"):
        trained.get_normalized_expression(library_size="latent")
