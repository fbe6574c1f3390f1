"""Mapping queries: what is new is learned, what is known does not move by a bit."""

from __future__ import annotations

import warnings

import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.datasets import simulate_mosaic


@pytest.fixture
def query(make_mosaic):
    """New batches; only RNA, shuffled features, three of them unknown or missing, no labels."""
    mosaic = make_mosaic(20, {"new1": ("rna",), "new2": ("rna",)}, seed=7)
    rna = mosaic["rna"]
    rna = rna[:, np.random.default_rng(0).permutation(rna.n_vars)].copy()
    rna = rna[:, rna.var_names != "rna0"].copy()
    rna.var_names = [n if n != "rna1" else "surprise" for n in rna.var_names]
    query = md.MuData({"rna": rna})
    query.obs["batch"] = [name.split("_")[0] for name in query.obs_names]
    return query


@pytest.fixture
def options(fit, make_mosaic):
    """Reference with two covariates, everything conditioned."""

    def build(**kwargs):
        setup = {"labels_key": "some_labels", **kwargs.pop("setup", {})}
        return fit(make_mosaic(), setup=setup, epochs=3, condition_encoder=True, **kwargs)

    return build


def weights(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.module.state_dict().items() if v is not None}


def test_zero_shot(options, query, unchanged):
    reference = options()
    check = unchanged(query)
    mapped = MaskedVAE.load_query_data(query, reference)
    assert mapped.get_latent_representation().shape == (40, reference.module.n_latent)
    assert list(mapped.predict().index) == list(query.obs_names)
    protein = mapped.get_normalized_expression(modality="protein")
    check()
    assert protein.shape == (40, 6)
    assert np.isfinite(protein.to_numpy()).all()
    assert mapped.batches == [*reference.batches, "new1", "new2"]


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW"])
def test_training_moves_only_new_rows(options, query, optimizer):
    reference = options()
    mapped = MaskedVAE.load_query_data(query, reference)
    before = weights(mapped)
    settings = {"weight_decay": 0.5, "lr": 0.1, "optimizer": optimizer}
    mapped.train(max_epochs=3, plan_kwargs=settings, enable_progress_bar=False)
    after, moved = weights(mapped), set()
    n_known = len(reference.batches)
    for name, old in before.items():
        if not torch.equal(old, after[name]):
            moved.add(name)
            assert torch.equal(old[:n_known], after[name][:n_known])
            assert not torch.equal(old[n_known:], after[name][n_known:])
    assert moved == {
        "encoder_covariates.embeddings.0.weight",
        "decoder_covariates.embeddings.0.weight",
    }


def test_reference_cells_keep_their_numbers(options, query):
    reference = options()
    z = reference.get_latent_representation()
    mapped = MaskedVAE.load_query_data(query, reference)
    mapped.train(max_epochs=2, enable_progress_bar=False)
    np.testing.assert_array_equal(mapped.get_latent_representation(reference.adata), z)


def test_missing_features_have_no_influence(options, query, make_mosaic):
    """Values of a feature that the reference does not know change nothing."""
    reference = options()
    z = MaskedVAE.load_query_data(query, reference).get_latent_representation()
    other = query.copy()
    values = other["rna"].X.toarray()
    values[:, list(other["rna"].var_names).index("surprise")] = 7
    other["rna"].X = values
    again = MaskedVAE.load_query_data(other, reference).get_latent_representation()
    np.testing.assert_allclose(z, again, atol=1e-6)


def test_several_covariates_grow_at_once(options, query):
    reference = options(setup={"categorical_covariate_keys": ["site", "donor"]})
    query.obs["site"] = "z"
    query.obs["donor"] = np.where(np.arange(40) % 2, "d1", "d9")
    mapped = MaskedVAE.load_query_data(query, reference)
    tables = [e.table() for e in mapped.module.decoder_covariates.embeddings]
    old = [e.table() for e in reference.module.decoder_covariates.embeddings]
    assert [len(t) for t in tables] == [5, 3, 4]
    for new, known in zip(tables, old, strict=True):
        torch.testing.assert_close(new[: len(known)], known)
        mean = known.mean(dim=0).expand(len(new) - len(known), -1)
        torch.testing.assert_close(new[len(known) :], mean)


def test_from_a_folder_and_again(options, query, make_mosaic, tmp_path):
    """Reference, first query, second query, each saved and loaded in between."""
    reference = options()
    z = reference.get_latent_representation()
    reference.save(tmp_path / "reference")
    first = MaskedVAE.load_query_data(query, tmp_path / "reference")
    first.train(max_epochs=1, enable_progress_bar=False)
    first.save(tmp_path / "first")
    loaded = MaskedVAE.load(tmp_path / "first", query)
    z_first = first.get_latent_representation()
    np.testing.assert_array_equal(loaded.get_latent_representation(), z_first)
    trainable = [n for n, p in loaded.module.named_parameters() if p.requires_grad]
    assert all(name.endswith("embeddings.0.new") for name in trainable)

    more = make_mosaic(10, {"later": ("protein", "atac")}, seed=9)
    second = MaskedVAE.load_query_data(more, tmp_path / "first")
    second.train(max_epochs=1, enable_progress_bar=False)
    np.testing.assert_array_equal(second.get_latent_representation(query), z_first)
    np.testing.assert_array_equal(second.get_latent_representation(reference.adata), z)


def test_unfrozen(options, query):
    mapped = MaskedVAE.load_query_data(query, options(), unfrozen=["encoder.first.rna"])
    before = weights(mapped)
    mapped.train(max_epochs=1, enable_progress_bar=False)
    after = weights(mapped)
    assert not torch.equal(before["encoder.first.rna.weight"], after["encoder.first.rna.weight"])
    assert torch.equal(before["encoder.first.atac.weight"], after["encoder.first.atac.weight"])


def test_prepared_query(options, query, unchanged):
    reference = options()
    query.mod["extra"] = query["rna"].copy()
    check = unchanged(query)
    reduced = MaskedVAE.prepare_query_mudata(query, reference)
    check()
    assert list(reduced.mod) == ["rna"]
    names = [n for n in reference.feature_names("rna") if n in query["rna"].var_names]
    assert list(reduced["rna"].var_names) == names
    a = MaskedVAE.load_query_data(query, reference).get_latent_representation()
    b = MaskedVAE.load_query_data(reduced, reference).get_latent_representation()
    order = reduced.obs_names.get_indexer(query.obs_names)
    np.testing.assert_allclose(a, b[order], atol=1e-6)


def test_prepared_query_keeps_what_is_of_cells(options, query, tmp_path):
    """Also of data in a file, which cannot be changed in place."""
    reference = options()
    query.obsm["spatial"] = np.arange(2.0 * query.n_obs).reshape(-1, 2)
    query.uns["sample"] = "s1"
    query.write_h5mu(tmp_path / "query.h5mu")
    stored = md.read_h5mu(tmp_path / "query.h5mu", backed="r")
    for mdata in (query, stored):
        reduced = MaskedVAE.prepare_query_mudata(mdata, reference)
        assert reduced.uns["sample"] == "s1"
        order = query.obs_names.get_indexer(reduced.obs_names)
        np.testing.assert_array_equal(reduced.obsm["spatial"], query.obsm["spatial"][order])
    assert not reduced.isbacked
    with pytest.raises(ValueError, match="`inplace`=True"):
        MaskedVAE.prepare_query_mudata(stored, reference, inplace=True)
    names = list(query["rna"].var_names)
    query["rna"].var_names = [names[1], *names[1:]]
    with pytest.raises(ValueError, match="1 feature names occur more than once.*'rna'"):
        MaskedVAE.prepare_query_mudata(query, reference)


def test_reduced_in_place(options, make_mosaic):
    """Cells that only have modalities which the reference lacks are left out."""
    reference = options(setup={"modalities": ["rna", "protein"]})
    mosaic = make_mosaic(10, {"b": ("atac",), "a": ("rna", "atac")}, seed=3)
    query = md.MuData({name: mosaic[name] for name in ("atac", "rna")})
    query.obs = mosaic.obs.loc[query.obs_names]
    query.obsm["spatial"] = np.arange(2.0 * query.n_obs).reshape(-1, 2)
    places = pd.DataFrame(query.obsm["spatial"], query.obs_names)
    kept = MaskedVAE.prepare_query_mudata(query, reference)
    np.testing.assert_array_equal(kept.obsm["spatial"], places.loc[kept.obs_names])
    names = MaskedVAE.prepare_query_mudata(query, reference).obs_names
    MaskedVAE.prepare_query_mudata(query, reference, inplace=True)
    assert set(query.obs_names) == set(names)
    assert list(query.mod) == ["rna"]
    assert set(query.obsm) == {"rna", "spatial"}
    assert set(query.varm) == {"rna"}
    assert MaskedVAE.load_query_data(query, reference).get_latent_representation().shape[0] == 10


def test_all_cells_of_a_query_are_trained_on_and_its_history_kept(options, query):
    mapped = MaskedVAE.load_query_data(query, options())
    mapped.train(max_epochs=2, enable_progress_bar=False)
    assert sorted(mapped.train_indices) == list(range(40))
    assert len(mapped.history["train_loss"]) == 2
    mapped.train(max_epochs=1, enable_progress_bar=False)
    assert len(mapped.history["train_loss"]) == 3


def test_labels_of_a_query_may_be_missing(options, query):
    reference = options()
    expected = MaskedVAE.load_query_data(query.copy(), reference).predict()
    query.obs["some_labels"] = np.nan
    assert MaskedVAE.load_query_data(query, reference).predict().equals(expected)
    own = reference.adata.copy()
    own.obs["some_labels"] = pd.Categorical([None] * 89 + ["type1"])
    assert reference.predict(own).equals(reference.predict())


def test_a_query_needs_no_mask_layer(make_mosaic, fit, query):
    mosaic = make_mosaic()
    mosaic["rna"].layers["seen"] = np.ones(mosaic["rna"].shape, dtype=bool)
    reference = fit(mosaic, setup={"mask_layers": {"rna": "seen"}}, epochs=1)
    plain = MaskedVAE.load_query_data(query.copy(), reference).get_latent_representation()
    query["rna"].layers["seen"] = np.ones(query["rna"].shape, dtype=bool)
    masked = MaskedVAE.load_query_data(query, reference).get_latent_representation()
    np.testing.assert_allclose(masked, plain, atol=1e-6)


@pytest.mark.parametrize(("unfrozen", "error"), [("encoder", TypeError), (["encodr"], ValueError)])
def test_weights_to_train_exist(options, query, unfrozen, error):
    with pytest.raises(error, match="unfrozen"):
        MaskedVAE.load_query_data(query, options(), unfrozen=unfrozen)


def test_errors(options, query):
    reference = options()
    with pytest.raises(ValueError, match="none is shared"):
        MaskedVAE.load_query_data(_renamed(query, "genes"), reference)
    known = query.copy()
    known.obs["batch"] = "cite"
    mapped = MaskedVAE.load_query_data(known, reference)
    with pytest.raises(ValueError, match="nothing to train"):
        mapped.train(max_epochs=1)
    strange = query.copy()
    strange["rna"].var_names = [f"ENSG{i}" for i in range(strange["rna"].n_vars)]
    with pytest.raises(ValueError, match=r"0 of the 14 features.*names of another kind"):
        MaskedVAE.load_query_data(strange, reference)
    with pytest.raises(TypeError, match="MaskedVAE or the directory"):
        MaskedVAE.load_query_data(query, 3)


def test_few_shared_features_warn(options, query):
    few = query.copy()
    names = list(few["rna"].var_names)
    few["rna"].var_names = [n if i < 5 else f"other{i}" for i, n in enumerate(names)]
    keep = np.asarray(few["rna"][:, :5].X.sum(axis=1)).ravel() > 0
    few = md.MuData({"rna": few["rna"][keep].copy()})
    few.obs["batch"] = "new1"
    with pytest.warns(UserWarning, match="less accurate"):
        MaskedVAE.load_query_data(few, options())


def _renamed(mdata: md.MuData, name: str) -> md.MuData:
    renamed = md.MuData({name: mdata["rna"].copy()})
    renamed.obs = mdata.obs.copy()
    return renamed


# Panels of a query


@pytest.fixture
def many_genes():
    """400 cells with proteins and 300 genes: the first half is rare, the last fifty are common."""
    mdata = simulate_mosaic(
        400, {"one": ("rna", "protein")}, n_features={"rna": 300, "protein": 6}, seed=2
    )
    rng, values = np.random.default_rng(0), mdata["rna"].X.toarray()
    values[:, :150] *= rng.random((400, 150)) < 0.05
    values[:, 250:] = rng.random((400, 50)) < 0.4
    mdata["rna"].X = values
    return mdata


def panel_of(model, batch: str) -> np.ndarray:
    state = model.registry_["field_registries"]["X_rna"]["state_registry"]
    return state["panel"][model.batches.index(batch)]


def part(mdata, cells, batch: str) -> md.MuData:
    rna = mdata["rna"][cells].copy()
    rna.obs_names = batch + rna.obs_names
    query = md.MuData({"rna": rna})
    query.obs["batch"] = batch
    return query


@pytest.mark.parametrize("model", [MaskedVAE, CrossAttentionMAE])
def test_panels_of_a_query(many_genes, model):
    """What is recorded with the query is used; else what chance does not explain is masked."""
    model.setup_mudata(many_genes, batch_key="batch")
    reference = model(many_genes)
    reference.train(max_epochs=1, enable_progress_bar=False)

    small = part(many_genes, slice(0, 25), "small")
    rare = np.asarray((small["rna"].X > 0).sum(axis=0)).ravel() == 0
    assert rare.sum() > 20
    mapped = model.load_query_data(small, reference)
    assert panel_of(mapped, "small").all()

    targeted = part(many_genes, slice(0, 100), "targeted")
    values = targeted["rna"].X.copy()
    values[:, 250:] = 0
    targeted["rna"].X = values
    mapped = model.load_query_data(targeted, reference)
    assert not panel_of(mapped, "targeted")[250:].any()
    assert panel_of(mapped, "targeted")[values.any(axis=0)].all()

    names = many_genes["rna"].var_names
    record = pd.DataFrame({"small": names.isin(names[5:])}, index=names)
    small["rna"].varm["measured"] = record
    order = np.random.default_rng(0).permutation(300)
    small = md.MuData({"rna": small["rna"][:, order].copy()})
    small.obs["batch"] = "small"
    mapped = model.load_query_data(small, reference)
    np.testing.assert_array_equal(panel_of(mapped, "small"), np.arange(300) >= 5)
    assert not mapped.module.panel_rna[mapped.batches.index("small"), :5].any()


def test_a_narrow_query_hides_nothing_of_the_reference(many_genes):
    """The features that the preset encodes are those common to the reference."""
    MaskedVAE.setup_mudata(many_genes, batch_key="batch")
    reference = MaskedVAE(many_genes, preset="inclust+")
    reference.train(max_epochs=1, enable_progress_bar=False)
    narrow = part(many_genes, slice(0, 100), "narrow")
    narrow = md.MuData({"rna": narrow["rna"][:, 150:].copy()})
    narrow.obs["batch"] = "narrow"
    mapped = MaskedVAE.load_query_data(narrow, reference)
    assert not panel_of(mapped, "narrow").all()
    np.testing.assert_array_equal(
        mapped.get_latent_representation(many_genes), reference.get_latent_representation()
    )


def test_a_narrow_query_of_a_known_batch_narrows_no_later_one(many_genes):
    MaskedVAE.setup_mudata(many_genes, batch_key="batch")
    reference = MaskedVAE(many_genes)
    reference.train(max_epochs=1, enable_progress_bar=False)
    batch = reference.batches[0]
    whole = part(many_genes, slice(0, 100), batch)
    narrow = md.MuData({"rna": whole["rna"][:, 150:].copy()})
    narrow.obs["batch"] = batch
    mapped = MaskedVAE.load_query_data(narrow, reference)
    assert panel_of(mapped, batch).sum() == 150
    again = MaskedVAE.load_query_data(whole, mapped)
    np.testing.assert_array_equal(panel_of(again, batch), panel_of(reference, batch))
    np.testing.assert_array_equal(
        again.get_latent_representation(), reference.get_latent_representation(whole)
    )
    with pytest.warns(UserWarning, match=rf"features were measured in batch {batch!r}.*reference"):
        mapped.get_latent_representation(whole)


def test_the_panel_of_an_earlier_query_stays_with_its_batch(many_genes):
    """What later cells of the batch have beyond it is left out, and this is said."""
    MaskedVAE.setup_mudata(many_genes, batch_key="batch")
    reference = MaskedVAE(many_genes)
    reference.train(max_epochs=1, enable_progress_bar=False)
    whole = part(many_genes, slice(0, 100), "new")
    narrow = md.MuData({"rna": whole["rna"][:, 150:].copy()})
    narrow.obs["batch"] = "new"
    mapped = MaskedVAE.load_query_data(narrow, reference)
    said = "features were measured in batch 'new', but not by the cells"
    with pytest.warns(UserWarning, match=said):
        z = mapped.get_latent_representation(whole)
    with pytest.warns(UserWarning, match=said):
        again = MaskedVAE.load_query_data(whole, mapped)
    np.testing.assert_allclose(again.get_latent_representation(), z, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again.get_latent_representation(narrow)
        MaskedVAE.load_query_data(narrow, mapped)


@pytest.mark.parametrize(("unfrozen", "epochs"), [((), 200), (["decoder"], 150)])
def test_weights_need_more_steps_than_new_categories(options, query, monkeypatch, unfrozen, epochs):
    monkeypatch.setattr("mumask.model._training.STEPS", 150)
    monkeypatch.setattr("mumask.model._query.QUERY_STEPS", 200)
    mapped = MaskedVAE.load_query_data(query, options(), unfrozen=unfrozen)
    mapped.train(enable_progress_bar=False)
    assert len(mapped.history["train_loss"]) == epochs
