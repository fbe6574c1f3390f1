"""What users of scvi-tools do with any model: callbacks, histories, registries, arguments."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from lightning.pytorch.callbacks import Callback
from scvi.train import SaveCheckpoint

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.model._training import allow_unused_weights

SMALL = {"n_embed": 16, "n_latent": 9, "n_heads": 2, "max_tokens": 6}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
LABELS = {"batch_key": "batch", "labels_key": "some_labels"}


@pytest.fixture
def attention(mosaic):
    CrossAttentionMAE.setup_mudata(mosaic, **LABELS)
    return CrossAttentionMAE(mosaic, **SMALL)


@pytest.fixture
def unlabelled(mosaic):
    """Nothing of its own holds cells back."""
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    return MaskedVAE(mosaic, n_latent=4, n_hidden=16)


# Validation


@pytest.mark.parametrize("options", [{"load_best_on_end": True}, {"save_top_k": 2}])
def test_a_checkpoint_alone_asks_for_held_out_cells(unlabelled, tmp_path, options):
    saver = SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss", **options)
    unlabelled.train(max_epochs=2, callbacks=[saver], **QUIET)
    assert len(unlabelled.validation_indices) == 9
    assert len(unlabelled.history["validation_loss"]) == 2


def test_a_checkpoint_of_stages(attention, tmp_path):
    for stage, steps in ((attention.train, {}), (attention.finetune, {"head_steps": 20})):
        saver = SaveCheckpoint(dirpath=str(tmp_path / stage.__name__), monitor="validation_loss")
        stage(max_epochs=2, callbacks=[saver], **steps, **QUIET)
        assert saver.best_model_path


def test_a_checkpoint_of_fine_tuning_has_its_head(attention, tmp_path):
    attention.train(max_epochs=0)
    best = SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss", load_best_on_end=True)
    attention.finetune(max_epochs=2, head_steps=20, callbacks=[best], **QUIET)
    loaded = CrossAttentionMAE.load(best.best_model_path, attention.adata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict(), attention.predict())
    ours, theirs = (m.get_latent_representation() for m in (attention, loaded))
    np.testing.assert_array_equal(ours, theirs)


def test_the_embedding_of_a_checkpoint_is_calibrated_after_loading(attention, tmp_path):
    """It is of the middle of stage 1, which ends with that: its parts have any scale."""
    saver = SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss")
    attention.train(max_epochs=2, callbacks=[saver], **QUIET)
    loaded = CrossAttentionMAE.load(saver.best_model_path, attention.adata, accelerator="cpu")
    before = {name: weight.clone() for name, weight in loaded.module.named_parameters()}
    assert not loaded.module.latent_mean.any()
    loaded.train(max_epochs=0)
    assert loaded.module.latent_mean.any()
    for name, weight in loaded.module.named_parameters():
        assert (weight == before[name]).all(), name


def test_learning_rates_are_watched(unlabelled):
    unlabelled.train(max_epochs=2, learning_rate_monitor=True, **QUIET)
    assert len(unlabelled.history["validation_loss"]) == 2  # the trainer validates for it


@pytest.mark.parametrize("options", [{"early_stopping": True}, {"check_val_every_n_epoch": 1}])
def test_no_cell_is_named_for_validation(unlabelled, attention, options):
    """Before anything is trained, in each stage."""
    cells = np.arange(90)
    options["datasplitter_kwargs"] = {"external_indexing": [cells, cells[:0]]}
    for model in (unlabelled, attention):
        with pytest.raises(ValueError, match="`external_indexing`"):
            model.train(max_epochs=1, **options, **QUIET)
        assert not model.is_trained
    attention.train(max_epochs=0)
    with pytest.raises(ValueError, match="`external_indexing`"):
        attention.finetune(max_epochs=1, **options, **QUIET)
    assert not attention.module.finetuned


@pytest.mark.parametrize(
    "options",
    [
        {"early_stopping": True, "validation_size": 0.0},
        {"early_stopping": True, "train_size": 0.999},
        {"plan_config": {"reduce_lr_on_plateau": True}, "train_size": 0.999},
        {"trainer_config": {"check_val_every_n_epoch": 1}, "train_size": 1.0},
        {"check_val_every_n_epoch": 1, "datasplitter_kwargs": "no validation"},
    ],
)
def test_nothing_is_left_for_validation(unlabelled, options):
    if "datasplitter_kwargs" in options:
        cells = [np.arange(80), None, np.arange(80, 90)]
        options = options | {"datasplitter_kwargs": {"external_indexing": cells}}
    with pytest.raises(ValueError, match="held out, and none are"):
        unlabelled.train(max_epochs=1, **options, **QUIET)
    assert not unlabelled.is_trained


def test_configurations_ask_for_held_out_cells_too(unlabelled):
    unlabelled.train(max_epochs=2, trainer_config={"check_val_every_n_epoch": 1}, **QUIET)
    assert len(unlabelled.history["validation_loss"]) == 2


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"num_sanity_val_steps": 1}])
def test_a_trial_run_has_cells_to_validate(unlabelled, attention, options):
    """As in scvi-tools, which holds cells back in any case."""
    CrossAttentionMAE.setup_mudata(attention.adata, batch_key="batch")
    for model in (unlabelled, CrossAttentionMAE(attention.adata, **SMALL)):
        model.train(1, **options, **QUIET)
        assert len(model.validation_indices)


def test_a_split_without_validation(unlabelled):
    cells = [np.arange(80), None, np.arange(80, 90)]
    unlabelled.train(max_epochs=1, datasplitter_kwargs={"external_indexing": cells}, **QUIET)
    assert cells[1] is None  # nothing of the user's is changed
    assert len(unlabelled.train_indices) == 80


def test_early_stopping_watches_the_loss_of_the_labels(attention):
    """A loss that falls in every epoch stops nothing, and patience is over where it cannot."""
    attention.train(max_epochs=0)
    stopping = {"early_stopping": True, "early_stopping_patience": 2, "head_steps": 1, **QUIET}
    attention.finetune(max_epochs=12, **stopping)
    losses = attention.history["validation_loss"]["validation_loss"].to_numpy(float)
    assert losses[5] < losses[0]
    assert len(losses) > 5
    before = len(losses)
    attention.finetune(max_epochs=12, early_stopping_min_delta=1e9, **stopping)
    assert len(attention.history["validation_loss"]) - before < 6


# History


def test_a_later_stage_adds_its_own_columns(attention):
    attention.train(max_epochs=3, **QUIET)
    attention.finetune(max_epochs=2, head_steps=1, train_size=0.8, early_stopping=True, **QUIET)
    history = attention.history
    assert list(history["validation_loss"].index) == [3, 4]
    assert list(history["classification_loss_validation"].index) == [3, 4]
    assert list(history["train_loss"].index) == [0, 1, 2, 3, 4]
    assert list(history["elbo_train"].index) == [0, 1, 2]  # labels have none
    assert (history["validation_loss"].to_numpy(float) > 0).all()


def test_checkpoints_keep_the_history_of_before(unlabelled, tmp_path):
    """scvi-tools begins a new one after each of them."""
    unlabelled.train(max_epochs=2, **QUIET)
    first = unlabelled.history["train_loss"].to_numpy(float)
    saver = SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss")
    unlabelled.train(max_epochs=3, callbacks=[saver], **QUIET)
    assert list(unlabelled.history["train_loss"].index) == [0, 1, 2, 3, 4]
    assert list(unlabelled.history["validation_loss"].index) == [2, 3, 4]
    np.testing.assert_array_equal(unlabelled.history["train_loss"].to_numpy(float)[:2], first)


class Stop(Callback):
    """Someone presses a key in the second epoch."""

    def on_train_epoch_start(self, trainer, plan):
        if trainer.current_epoch == 1:
            raise RuntimeError("stopped")


def test_an_interrupted_training_keeps_the_history_and_forgets_labels(mosaic, fit):
    """The head and its calibration belong to the latent space of before."""
    model = fit(mosaic, epochs=2, setup={"labels_key": "some_labels"})
    assert model.module.label_head.fitted
    with pytest.raises(RuntimeError, match="stopped"):
        model.train(max_epochs=3, callbacks=[Stop()], **QUIET)
    assert list(model.history["train_loss"].index) == [0, 1, 2]
    assert model.is_trained
    assert not model.module.label_head.fitted
    assert model.known_types_ is None


def test_a_training_that_cannot_begin_forgets_no_labels(mosaic, fit, attention):
    """Whatever is wrong with its arguments, and whoever finds it."""
    vae = fit(mosaic, epochs=2, setup={"labels_key": "some_labels"})
    attention.train(max_epochs=1, **QUIET)
    attention.finetune(head_steps=20)
    for model in (vae, attention):
        before = model.predict(soft=True)
        for wrong in ({"early_stopping": True, "train_size": 1}, {"train_size": 2}, {"foo": 1}):
            with pytest.raises((TypeError, ValueError)):
                model.train(max_epochs=1, **wrong, **QUIET)
        pd.testing.assert_frame_equal(model.predict(soft=True), before)
        assert model.known_types_ is not None


def test_a_share_for_validation_is_enough_to_fine_tune(attention):
    attention.train(max_epochs=0)
    attention.finetune(max_epochs=1, head_steps=5, validation_size=0.2, **QUIET)
    assert len(attention.validation_indices) == 18


def test_an_interrupted_fine_tuning_is_none(attention):
    attention.train(max_epochs=1, **QUIET)
    attention.finetune(head_steps=20)
    with pytest.raises(RuntimeError, match="stopped"):
        attention.finetune(max_epochs=3, head_steps=1, callbacks=[Stop()], **QUIET)
    with pytest.raises(ValueError, match="finetune"):
        attention.predict()
    attention.finetune(head_steps=20)
    assert len(attention.predict()) == 90


def test_a_history_that_was_switched_off_can_begin(unlabelled):
    unlabelled.train(max_epochs=1, logger=False, **QUIET)
    assert not unlabelled.history
    unlabelled.train(max_epochs=2, **QUIET)
    assert len(unlabelled.history["train_loss"]) == 2


# Arguments


@pytest.mark.parametrize("model", ["unlabelled", "attention"])
def test_a_misspelled_learning_rate(model, request):
    model = request.getfixturevalue(model)
    with pytest.raises(TypeError, match=r"'learning_rate'.*`lr`"):
        model.train(max_epochs=1, plan_kwargs={"learning_rate": 1.0}, **QUIET)


def test_a_learning_rate_outside_of_the_plan(unlabelled, attention):
    for model in (unlabelled, attention):
        with pytest.raises(TypeError, match=r"\['lr'\] belong in `plan_kwargs`"):
            model.train(max_epochs=1, lr=1e-3, **QUIET)


def test_booleans_go_by_the_names_of_the_cells(mosaic, fit):
    """A modality has an order of its own, and a mask made from its obs has that too."""
    model = fit(mosaic, epochs=1)
    names = mosaic.obs_names
    chosen = pd.Series(names.str.startswith("cite"), index=names)
    expected = model.get_latent_representation(indices=np.flatnonzero(chosen))
    turned = chosen.iloc[::-1]
    for mask in (turned, turned.astype("boolean"), turned.reset_index(drop=True).iloc[::-1]):
        np.testing.assert_array_equal(model.get_latent_representation(indices=mask), expected)
    in_rna = mosaic["rna"].obs_names.str.startswith("solo")
    of_rna = pd.Series(in_rna, index=mosaic["rna"].obs_names)
    found = model.differential_expression(idx1=of_rna, modality="rna", silent=True)
    solo = np.flatnonzero(names.str.startswith("solo"))
    by_number = model.differential_expression(idx1=solo, modality="rna", silent=True)
    means = [table["raw_mean1"].sort_index() for table in (found, by_number)]
    pd.testing.assert_series_equal(*means)
    strange = turned.rename({names[0]: "stranger"})
    with pytest.raises(KeyError, match="'stranger'"):
        model.get_latent_representation(indices=strange)


@pytest.mark.parametrize("unfrozen", [True, False, None])
def test_all_weights_of_a_query(mosaic, fit, make_mosaic, unfrozen):
    query = make_mosaic(10, {"new": ("rna",)}, seed=1)
    mapped = MaskedVAE.load_query_data(query, fit(mosaic, epochs=1), unfrozen=unfrozen)
    others = [
        weight.requires_grad
        for name, weight in mapped.module.named_parameters()
        if "covariates" not in name  # known batches never move, new ones always
    ]
    assert set(others) == {unfrozen is True}


# Saved models


def test_how_a_saved_model_was_set_up(mosaic, fit, tmp_path, capsys):
    model = fit(mosaic, setup={"labels_key": "some_labels"}, epochs=1)
    model.save(tmp_path / "model", prefix="one_")
    registry = MaskedVAE.load_registry(tmp_path / "model", prefix="one_")
    assert registry["setup_args"] == dict(model.registry["setup_args"])
    states = [r["field_registries"]["X_rna"]["state_registry"] for r in (registry, model.registry)]
    assert list(states[0]["column_names"]) == list(states[1]["column_names"])
    MaskedVAE.view_setup_args(tmp_path / "model", prefix="one_")
    assert "some_labels" in capsys.readouterr().out


def test_without_data_there_is_nothing_to_train_or_save(mosaic, fit, tmp_path):
    fit(mosaic, epochs=1).save(tmp_path / "model")
    model = MaskedVAE.load(tmp_path / "model")
    for ask in (model.train, lambda: model.save(tmp_path / "again", save_anndata=True)):
        with pytest.raises(ValueError, match=r"load\(adata=...\)"):
            ask()
    assert not (tmp_path / "again").exists()


def test_the_setup_is_shown_in_full(mosaic, fit, capsys):
    covariates = {"continuous_covariate_keys": ["age"], "categorical_covariate_keys": ["site"]}
    model = fit(mosaic, setup=covariates, epochs=0)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.view_anndata_setup()
    shown = capsys.readouterr().out
    assert f"[{mosaic.obs['age'].mean():.6f}"[:7] in shown
    assert str(sorted(mosaic.obs["site"].astype(str).unique())) in shown
    assert "array(" not in shown
    assert "np.float" not in shown


# Trainer


@pytest.mark.parametrize("model", ["unlabelled", "attention"])
def test_training_by_the_clock(model, request):
    """No number of steps is planned, so the learning rate does not fall."""
    model = request.getfixturevalue(model)
    model.train(max_epochs=-1, max_time={"seconds": 2}, **QUIET)
    schedule = model.trainer.lr_scheduler_configs[0].scheduler
    assert model.trainer.global_step > 0
    assert schedule.get_last_lr() == schedule.base_lrs


def test_gradients_are_clipped_in_mixed_precision(unlabelled):
    unlabelled.train(max_epochs=1, precision="bf16-mixed", gradient_clip_val=1.0, **QUIET)
    assert unlabelled.is_trained


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", 64])
def test_precision_of_weights(unlabelled, attention, precision):
    for model in (unlabelled, attention):
        with pytest.raises(ValueError, match="`precision`.*'bf16-mixed'"):
            model.train(max_epochs=1, precision=precision, **QUIET)


@pytest.mark.parametrize(
    ("devices", "strategy"),
    [
        ("2", "ddp_find_unused_parameters_true"),
        ("0,1", "ddp_find_unused_parameters_true"),
        ("-1", "ddp_find_unused_parameters_true"),
        ([0, 1], "ddp_find_unused_parameters_true"),
        ("1", None),
        ("0,", None),
        ("auto", None),
        (1, None),
    ],
)
def test_several_devices_however_they_are_named(devices, strategy):
    arguments = {"devices": devices}
    allow_unused_weights(arguments)
    assert arguments.get("strategy") == strategy


# Labels that changed


def test_renamed_labels_are_said_before_they_are_forgotten(mosaic, fit, attention):
    vae = fit(mosaic, epochs=2, setup={"labels_key": "some_labels"})
    attention.train(max_epochs=0)
    before = vae.predict()
    kept = mosaic.obs["some_labels"].copy()
    mosaic.obs["some_labels"] = kept.replace({"type1": "T cells"})
    said = r"Labels \['T cells'\] of 'some_labels' are not among the classes"
    with pytest.warns(UserWarning, match=said):
        vae.train(max_epochs=1, **QUIET)
    with pytest.warns(UserWarning, match=said):
        attention.finetune(head_steps=5)
    mosaic.obs["some_labels"] = kept.where(kept == "Unknown", "my " + kept)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="No cell has a label"):
        vae.train(max_epochs=1, **QUIET)
    mosaic.obs["some_labels"] = "Unknown"
    for learn in (vae.train, attention.finetune):
        with pytest.raises(ValueError, match="No cell has a label"):
            learn(max_epochs=1, **QUIET)
    assert list(vae.predict().cat.categories) == list(before.cat.categories)
