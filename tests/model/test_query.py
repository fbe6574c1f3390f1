"""Mapping queries: what is new is learned, what is known does not move by a bit."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
import torch

from mumask import MaskedVAE


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
