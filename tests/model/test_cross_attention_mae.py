"""CrossAttentionMAE: stages, queries, saving, bad input."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from mumask import CrossAttentionMAE

SMALL = {"n_embed": 16, "n_latent": 9, "n_heads": 2, "max_tokens": 6}
MODALITIES = {"cite": ("rna", "protein"), "asap": ("protein", "atac"), "solo": ("rna",)}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def make(mdata, setup=None, epochs=6, head_steps=150, finetune=None, train=None, **model):
    scvi.settings.seed = 0
    setup = {"batch_key": "batch", "labels_key": "some_labels", **(setup or {})}
    CrossAttentionMAE.setup_mudata(mdata, **setup)
    model = CrossAttentionMAE(mdata, **{**SMALL, **model})
    model.train(max_epochs=epochs, **{**QUIET, **(train or {})})
    if head_steps:
        model.finetune(head_steps=head_steps, **{**QUIET, **(finetune or {})})
    return model


@pytest.fixture(scope="module")
def reference(make_mosaic):
    """Trained through stage 2; not to be changed."""
    return make(make_mosaic(60))


@pytest.fixture
def query(make_mosaic):
    """One modality, two new batches, features in another order, one missing, one unknown."""
    mosaic = make_mosaic(20, {"new1": ("rna",), "new2": ("rna",)}, seed=7)
    rna = mosaic["rna"]
    rna = rna[:, np.random.default_rng(0).permutation(rna.n_vars)].copy()
    rna = rna[:, rna.var_names != "rna0"].copy()
    rna.var_names = [n if n != "rna1" else "surprise" for n in rna.var_names]
    query = md.MuData({"rna": rna})
    for column in ("batch", "cell_type"):
        query.obs[column] = mosaic.obs[column].reindex(query.obs_names)
    return query


def weights(model):
    return {k: v.clone() for k, v in model.module.state_dict().items() if v is not None}


def moved(model, before):
    return {k for k, v in weights(model).items() if not torch.equal(v, before[k])}


def test_stand_ins_are_learned_where_training_alone_hides_modalities(make_mosaic):
    """Every cell has both modalities; modality dropout lets the other stand in."""
    paired = make_mosaic(40, {"cite": ("rna", "protein")})
    setup = {"batch_key": None}
    before = weights(make(paired, setup=setup, epochs=0, head_steps=0))
    changed = moved(make(paired, setup=setup, epochs=1, head_steps=0), before)
    assert {k for k in before if k.startswith("fusion.stand_ins.")} <= changed


def test_what_is_not_for_validation_is_trained_on(mosaic):
    model = make(mosaic, epochs=1, head_steps=0, train={"validation_size": 0.2})
    assert (len(model.train_indices), len(model.validation_indices)) == (72, 18)


def test_stage_1_learns_without_labels(make_mosaic, unchanged):
    mosaic = make_mosaic(60)
    check = unchanged(mosaic)
    model = make(mosaic, setup={"labels_key": None}, epochs=12, head_steps=0)
    loss = model.history["train_loss"].to_numpy().ravel()
    assert loss[-1] < loss[0]
    assert model.get_latent_representation().shape == (180, 9)
    assert np.isfinite(model.get_latent_representation()).all()
    error = model.get_reconstruction_error()
    assert set(error) == {"rna", "protein", "atac"}
    # 1 is the error of predicting the mean of every standardised feature.
    assert error["rna"] < 1
    with pytest.raises(ValueError, match="labels_key"):
        model.finetune()
    with pytest.raises(ValueError, match="labels_key"):
        model.predict()
    check()


def test_stage_2_labels_unseen_cells(reference):
    obs = reference.adata.obs
    unseen = (obs["some_labels"] == "Unknown").to_numpy()
    labels = reference.predict()
    assert labels.name == "mumask_label" and labels.dtype == "category"
    accuracy = (labels.astype(str) == obs["cell_type"].astype(str)).to_numpy()[unseen].mean()
    assert accuracy > 0.7  # four types, one in four by chance
    assert reference.get_latent_representation().shape == (180, reference.module.classifier.n_out)
    table = reference.annotate()
    assert list(table.columns[:2]) == ["mumask_label", "mumask_uncertainty"]
    assert table["mumask_uncertainty"].between(0, 1).all()


def test_the_head_waits_for_its_stage(mosaic):
    model = make(mosaic, head_steps=0)
    with pytest.raises(ValueError, match="finetune"):
        model.predict()
    model.finetune(head_steps=20)
    model.predict()
    model.train(max_epochs=1, **QUIET)  # embeddings have moved: the head does not fit them
    with pytest.raises(ValueError, match="finetune"):
        model.predict()


class Interrupt(Callback):
    """Someone presses a key after the first step."""

    def on_train_batch_end(self, *_):
        raise KeyboardInterrupt


def test_an_interrupted_stage_1_leaves_no_old_head(mosaic):
    model = make(mosaic, head_steps=20)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        model.train(max_epochs=1, callbacks=[Interrupt()], **QUIET)
    assert model.known_types_ is None
    with pytest.raises(ValueError, match="finetune"):
        model.predict()


def test_finetuning_needs_something_to_train(mosaic):
    model = make(mosaic, epochs=0, head_steps=0)
    with pytest.raises(ValueError, match="Nothing to train"):
        model.finetune(max_epochs=0, head_steps=0)


def test_finetuning_the_head_leaves_stage_1_as_it_is(mosaic):
    model = make(mosaic, head_steps=0)
    before, z = weights(model), model.get_latent_representation()
    model.finetune(head_steps=20)
    changed = {name.split(".")[0] for name in moved(model, before)}
    assert changed == {"classifier", "finetuned"}
    parts = [model.get_latent_representation(modality=m) for m in model.modalities]
    weighed = np.concatenate(parts, 1) @ model.module.agreed.numpy()
    np.testing.assert_allclose(weighed, z, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("brief_calibration")
def test_finetuning_everything_drops_the_decoders(mosaic):
    model = make(mosaic, head_steps=20)
    before = weights(model)
    model.finetune(max_epochs=2, head_steps=0, **QUIET)
    changed = {name.split(".")[0] for name in moved(model, before)}
    assert {"encoders", "fusion", "classifier"} <= changed
    assert not changed & {"decoders", "decoder_covariates"}
    assert model.module.stage == "pretrain"


def test_untrained_start(mosaic):
    """Zero epochs leave the principal axes: a baseline that masked training has to beat."""
    model = make(mosaic, epochs=0, head_steps=0)
    assert model.is_trained
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize("kind", ["one gene", "one cell", "all ones"])
def test_a_constant_modality_adds_nothing(make_mosaic, kind):
    mosaic = make_mosaic()
    if kind == "one gene":
        mosaic.mod["rna"] = mosaic["rna"][:, :1].copy()
        mosaic["rna"].X = np.random.default_rng(0).poisson(3, mosaic["rna"].shape) + 1.0
    elif kind == "one cell":
        mosaic.mod["protein"] = mosaic["protein"][:1].copy()
    else:
        mosaic["atac"].X = np.ones(mosaic["atac"].shape, dtype=np.float32)
    mosaic.update()
    model = make(mosaic, epochs=0, head_steps=20)
    has = np.isin(mosaic.obs_names, np.concatenate([a.obs_names for a in mosaic.mod.values()]))
    assert np.isfinite(model.get_latent_representation()[has]).all()
    name = {"one gene": "rna", "one cell": "protein", "all ones": "atac"}[kind]
    assert not model.module.encoders[name].tokens.value[..., 0].any()
    model.train(max_epochs=1, **QUIET)
    assert all(w.isfinite().all() for w in model.module.state_dict().values())


@pytest.mark.parametrize("names", [("rna",), ("rna", "protein"), ("protein", "atac", "rna")])
def test_any_number_of_modalities(make_mosaic, names):
    batches = {b: m for b, m in MODALITIES.items() if set(m) & set(names)}
    mosaic = make_mosaic(batches=batches)
    model = make(mosaic, setup={"modalities": list(names)}, epochs=1, head_steps=10)
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.predict().notna().all()


def test_cell_order_changes_nothing(reference):
    order = np.random.default_rng(0).permutation(180)
    z = reference.get_latent_representation(batch_size=50)
    again = reference.get_latent_representation(indices=order)
    np.testing.assert_allclose(again, z[order], atol=1e-5)


def test_source_hides_the_others(reference, make_mosaic):
    z = reference.get_latent_representation(source="rna")
    other = make_mosaic(60)
    other["protein"].X = other["protein"].X * 7
    again = reference.get_latent_representation(other, source="rna")
    np.testing.assert_array_equal(z, again)
    has = reference.adata.obs_names.isin(reference.adata["rna"].obs_names)
    assert np.isnan(z[~has]).all() and np.isfinite(z[has]).all()


def test_decoding_and_imputation(reference):
    protein = reference.get_normalized_expression(modality="protein", source="rna")
    assert list(protein.columns) == list(reference.feature_names("protein"))
    shown = protein.dropna()
    assert (shown >= 0).all(axis=None)
    totals = shown.sum(1)  # a generated modality has totals of its own
    assert totals.std() > 0.01 * totals.mean()
    scaled = reference.get_normalized_expression(modality="protein", library_size=500.0)
    np.testing.assert_allclose(scaled.sum(1), 500.0, rtol=1e-4)
    full = reference.impute()
    measured = reference.adata["protein"]
    kept = full["protein"][measured.obs_names].X
    np.testing.assert_array_equal(kept, measured.X.toarray().astype(np.float32))
    assert full["atac"].n_obs == 180 and full["atac"].X.max() <= 1


def test_save_and_load(reference, tmp_path):
    reference.save(tmp_path / "model")
    again = CrossAttentionMAE.load(tmp_path / "model", reference.adata)
    np.testing.assert_array_equal(
        again.get_latent_representation(), reference.get_latent_representation()
    )
    assert again.predict(soft=True).equals(reference.predict(soft=True))
    again.finetune(head_steps=10)
    bare = CrossAttentionMAE.load(tmp_path / "model")
    with pytest.raises(ValueError, match="without data"):
        bare.predict()


def test_zero_shot_query(reference, query, unchanged, tmp_path):
    check = unchanged(query)
    reference.save(tmp_path / "model")
    mapped = CrossAttentionMAE.load_query_data(query, tmp_path / "model")
    truth = query.obs["cell_type"].astype(str).to_numpy()
    assert (mapped.predict().astype(str).to_numpy() == truth).mean() > 0.45
    assert mapped.get_latent_representation().shape[0] == 40
    protein = mapped.get_normalized_expression(modality="protein")
    assert np.isfinite(protein.to_numpy()).all()
    check()


def test_training_a_query_moves_only_new_rows(reference, query):
    mapped = CrossAttentionMAE.load_query_data(query, reference)
    before = weights(mapped)
    mapped.train(max_epochs=2, plan_kwargs={"weight_decay": 0.5, "lr": 0.1}, **QUIET)
    assert moved(mapped, before) == {"decoder_covariates.embeddings.0.weight"}
    known = len(reference.batches)
    old, new = (
        before["decoder_covariates.embeddings.0.weight"],
        mapped.module.state_dict()["decoder_covariates.embeddings.0.weight"],
    )
    assert torch.equal(old[:known], new[:known]) and not torch.equal(old[known:], new[known:])


def test_stage_3_learns_from_the_labels_of_a_query(reference, query):
    query.obs["some_labels"] = np.where(
        np.arange(40) < 30, query.obs["cell_type"].astype(str), "Unknown"
    )
    mapped = CrossAttentionMAE.load_query_data(query, reference)
    before = weights(mapped)
    mapped.finetune(head_steps=100)
    assert all(name.startswith("classifier") for name in moved(mapped, before))
    unfrozen = CrossAttentionMAE.load_query_data(query, reference, unfrozen=["encoders.rna"])
    before = weights(unfrozen)
    unfrozen.finetune(max_epochs=1, head_steps=20, **QUIET)
    changed = {name.split(".")[0] for name in moved(unfrozen, before)}
    assert "encoders" in changed and not changed & {"decoders", "fusion"}


def test_an_unlabelled_query_cannot_be_finetuned(reference, query):
    del query.obs["cell_type"]
    mapped = CrossAttentionMAE.load_query_data(query, reference)
    with pytest.raises(ValueError, match="some labelled cells"):
        mapped.finetune()


def test_incremental_queries(reference, query, make_mosaic, tmp_path):
    first = CrossAttentionMAE.load_query_data(query, reference)
    first.train(max_epochs=1, **QUIET)
    first.save(tmp_path / "first")
    other = make_mosaic(15, {"new3": ("protein",)}, seed=9)
    second = CrossAttentionMAE.load_query_data(other, tmp_path / "first")
    second.train(max_epochs=1, **QUIET)
    assert second.batches == [*reference.batches, "new1", "new2", "new3"]
    np.testing.assert_array_equal(
        second.get_latent_representation(reference.adata), reference.get_latent_representation()
    )


@pytest.mark.usefixtures("brief_calibration")
def test_preset_trains_as_in_the_paper(make_mosaic):
    """Random start, early stopping on masked validation tokens, linear head, all of it tuned."""
    model = make(
        make_mosaic(),
        preset="scmmae",
        n_encoder_layers=1,
        n_decoder_layers=1,
        epochs=3,
        head_steps=None,
        finetune={"max_epochs": 1},
    )
    assert (model.history["validation_loss"] > 0).all(axis=None)
    model.finetune(max_epochs=1, **QUIET)
    assert model.module.classifier.n_out == model.module.n_latent
    assert len(model.module.classifier.network) == 1
    assert model.predict().notna().all()
    assert model.annotate()["mumask_novelty"].notna().all()
    mapped = CrossAttentionMAE.load_query_data(make_mosaic(10, {"solo": ("rna",)}, seed=3), model)
    assert mapped.annotate()["mumask_label"].notna().all()


def test_a_query_is_calibrated_where_its_reference_is_not(make_mosaic, query):
    query.obs["some_labels"] = query.obs["cell_type"].astype(str)
    mapped = CrossAttentionMAE.load_query_data(query, make(make_mosaic(60), head_steps=0))
    mapped.finetune(head_steps=20)
    assert mapped.annotate()["mumask_novelty"].notna().all()


def test_what_is_shared_works_without_a_posterior(reference):
    table = reference.differential_expression(
        groupby="cell_type", group1="type0", modality="protein", silent=True
    )
    assert set(table.index) == set(reference.feature_names("protein"))
    assert table["proba_de"].between(0, 1).all()
    as_solo = reference.predict_condition({"batch": "solo"}, modality="protein")
    own = reference.get_normalized_expression(modality="protein")
    solo = (reference.adata.obs["batch"].astype(str) == "solo").to_numpy()
    np.testing.assert_allclose(as_solo[solo], own[solo], rtol=1e-4)
    assert not np.allclose(as_solo[~solo], own[~solo], rtol=1e-3)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "scmae"}, "scmmae"),
        ({"transforms": {"protein": "sqrt"}}, "clr"),
        ({"transforms": {"prot": "clr"}}, "prot"),
        ({"token_size": {"genes": 10}}, "genes"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"input_panel": "common"}, "input_panel.*'common'.*'random'"),
        ({"n_embed": 10, "n_heads": 4}, "multiple"),
        ({"n_latent": 2}, "n_latent"),
        ({"modality_weights": {"adt": 1.0}}, "adt"),
    ],
)
def test_bad_arguments(mosaic, options, message):
    CrossAttentionMAE.setup_mudata(mosaic, batch_key="batch")
    with pytest.raises(ValueError, match=message):
        CrossAttentionMAE(mosaic, **options)


def test_labels_come_after_stage_1(mosaic):
    CrossAttentionMAE.setup_mudata(mosaic, labels_key="some_labels")
    model = CrossAttentionMAE(mosaic, **SMALL)
    with pytest.raises(ValueError, match="stage 1"):
        model.finetune()


def test_transforms_follow_names_and_likelihoods(mosaic):
    mosaic.mod["prot"] = mosaic.mod.pop("protein")
    mosaic.mod["methylation"] = mosaic.mod.pop("atac")
    CrossAttentionMAE.setup_mudata(mosaic)
    encoders = CrossAttentionMAE(mosaic, **SMALL).module.encoders
    kinds = {name: encoder.norm.transform for name, encoder in encoders.items()}
    assert kinds == {"rna": "log1p", "prot": "clr", "methylation": "binary"}


@pytest.mark.parametrize("options", [{"optimizer": "Adam"}, {"reduce_lr_on_plateau": True}])
def test_its_optimiser_is_its_own(make_mosaic, options):
    with pytest.raises(ValueError, match="AdamW and its own schedule"):
        make(make_mosaic(20), epochs=1, train={"plan_kwargs": options})
