"""Training: scvi-tools' machinery works, label modes work, masks act, seeds repeat."""

from __future__ import annotations

import inspect
import math
import platform
import subprocess
import sys

import numpy as np
import pytest
import scvi
import torch
from scvi.train import SaveCheckpoint

from mumask import MaskedVAE
from mumask.model._masked_vae import N_CLUSTERS
from mumask.model._training import default_epochs
from mumask.train import _plan


def losses(model, name="elbo_train"):
    return model.history_[name].to_numpy(dtype=float).ravel()


@pytest.mark.parametrize("preset", [None, "inclust+"])
@pytest.mark.parametrize("labels", [None, "some_labels", "cell_type"])
def test_label_modes(mosaic, fit, preset, labels):
    """Unsupervised, semi-supervised and supervised, each learns."""
    setup = {"labels_key": labels} if labels else {}
    if preset:
        for adata in mosaic.mod.values():
            adata.X = np.log1p(adata.X.toarray())
        setup["likelihoods"] = dict.fromkeys(mosaic.mod, "gaussian")
    model = fit(mosaic, setup=setup, epochs=6, preset=preset)
    reconstruction = losses(model, "reconstruction_loss_train")
    assert reconstruction[-1] < reconstruction[0]
    assert np.isfinite(model.get_latent_representation()).all()
    if labels:
        assert model.classes == ["type0", "type1", "type2", "type3"]
        cross_entropy = losses(model, "classification_loss_train")
        assert cross_entropy[-1] < cross_entropy[0]
    else:
        assert model.classes == [str(k) for k in range(N_CLUSTERS)]
        assert model.predict(soft=True).shape == (90, N_CLUSTERS)


def test_one_weight_leaves_the_others_at_their_defaults(mosaic):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    default = MaskedVAE(mosaic).module.weights
    assert MaskedVAE(mosaic, weights={"kl": 2.0}).module.weights == {**default, "kl": 2.0}
    paper = MaskedVAE(mosaic, preset="inclust+", weights={"labels": 3.0}).module.weights
    assert paper == {"reconstruction": 5.0, "kl": 1.0, "prior": 1.0, "labels": 3.0}


def test_no_classifier(mosaic, fit):
    model = fit(mosaic, prior="standard")
    with pytest.raises(ValueError, match="no classifier.*labels_key.*n_clusters"):
        model.predict()


def test_clusters_are_learned(mosaic, fit):
    model = fit(mosaic, epochs=3, n_clusters=5)
    assert model.predict(soft=True).shape == (90, 5)
    assert losses(model, "kl_local_train").size == 3
    prior = model.module.prior
    assert not torch.allclose(prior.means[0], prior.means[1])
    assert len(set(prior.log_share.tolist())) == len(set(prior.log_var.tolist())) == 5


@pytest.mark.parametrize("train_size", [1.0, 0.1])
def test_few_labels(mosaic, fit, train_size):
    """Most minibatches have no labelled cell; with 0.1 all training cells have none."""
    mosaic.obs["few"] = "Unknown"
    mosaic.obs.loc[mosaic.obs_names[[0, 40]], "few"] = ["a", "b"]
    model = fit(mosaic, setup={"labels_key": "few"}, train={"train_size": train_size})
    assert np.isfinite(losses(model)).all()
    assert model.classes == ["a", "b"]
    assert model.predict(soft=True).notna().all(axis=None)


def test_covariates(mosaic, fit):
    setup = {
        "categorical_covariate_keys": ["site", "donor"],
        "continuous_covariate_keys": ["age"],
    }
    model = fit(mosaic, setup=setup, arithmetic="add")
    sizes = [len(emb.weight) for emb in model.module.decoder_covariates.embeddings]
    assert sizes == [3, 2, 3]
    before = model.get_normalized_expression(modality="rna", indices=[0])
    mosaic.obs["age"] += 30
    after = model.get_normalized_expression(modality="rna", indices=[0])
    assert not np.allclose(before, after)


def test_seeds(make_mosaic, fit):
    results = []
    for seed in (1, 1, 2):
        scvi.settings.seed = seed
        results.append(fit(make_mosaic(), epochs=2).get_latent_representation())
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2])


def test_one_modality(make_mosaic, fit):
    model = fit(make_mosaic(batches={"a": ("rna",), "b": ("rna",)}), epochs=15)
    assert losses(model)[-1] < losses(model)[0]
    assert model.impute()["rna"].X.shape == (60, 14)


def test_cells_that_lost_what_they_had(make_mosaic, fit):
    mosaic = make_mosaic()
    model = fit(mosaic, epochs=1)
    mosaic.mod["rna"] = mosaic["rna"][~mosaic["rna"].obs_names.isin(["solo_1", "solo_2"])].copy()
    with pytest.raises(ValueError, match="2 cells are in none of the modalities any more"):
        model.train(max_epochs=1)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "gaussian"])
def test_likelihoods(mosaic, fit, likelihood):
    model = fit(mosaic, setup={"likelihoods": dict.fromkeys(["rna", "protein"], likelihood)})
    assert type(model.module.likelihoods["atac"]).__name__ == "Bernoulli"
    assert np.isfinite(losses(model)).all()
    assert np.isfinite(model.get_normalized_expression(modality="rna")).all(axis=None)


def test_kl_warmup_counts_steps(mosaic, fit):
    plan = {"plan_kwargs": {"n_steps_kl_warmup": 12}}  # three steps per epoch
    assert fit(mosaic, epochs=2, train=plan).trainer.lightning_module.kl_weight == pytest.approx(
        0.5
    )
    assert fit(mosaic, epochs=5, train=plan).trainer.lightning_module.kl_weight == 1.0
    assert fit(mosaic, epochs=1).trainer.lightning_module.kl_weight < 0.1


def test_validation_and_early_stopping(mosaic, fit):
    options = {
        "train_size": 0.7,
        "early_stopping": True,
        "early_stopping_patience": 2,
        "early_stopping_min_delta": 1e9,
        "check_val_every_n_epoch": 1,
    }
    model = fit(mosaic, epochs=40, train=options)
    assert len(losses(model, "elbo_validation")) < 10
    assert len(model.train_indices) == 63
    assert len(set(model.train_indices) | set(model.validation_indices)) == 90


def test_checkpoints(mosaic, fit, tmp_path):
    saver = SaveCheckpoint(dirpath=str(tmp_path), monitor="elbo_validation", save_top_k=2)
    options = {"train_size": 0.8, "check_val_every_n_epoch": 1, "callbacks": [saver]}
    model = fit(mosaic, epochs=3, train={**options, "enable_checkpointing": True})
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2
    best = MaskedVAE.load(saver.best_model_path)
    assert best.get_latent_representation(mosaic.copy()).shape == (90, 4)
    assert model.is_trained_


def test_best_checkpoint_is_loaded_at_the_end(mosaic, fit, tmp_path):
    saver = SaveCheckpoint(dirpath=str(tmp_path), monitor="elbo_validation", load_best_on_end=True)
    options = {"train_size": 0.8, "check_val_every_n_epoch": 1, "callbacks": [saver]}
    model = fit(mosaic, epochs=3, train={**options, "enable_checkpointing": True})
    best = MaskedVAE.load(saver.best_model_path)
    for name, weight in best.module.state_dict().items():
        if not name.startswith("metacells."):
            assert torch.equal(weight, model.module.state_dict()[name]), name
    assert model.module.metacells.knows("rna")  # made when training is over
    assert not best.module.metacells.knows("rna")


def test_progress_bar(mosaic, fit, capsys):
    fit(mosaic, epochs=2, train={"enable_progress_bar": True})
    shown = "".join(capsys.readouterr())
    assert "Epoch 2/2" in shown
    assert "100%" in shown


def test_training_again_is_training(mosaic, fit):
    """Inference and a first training leave the module in evaluation mode."""
    model = fit(mosaic, epochs=1)
    model.get_latent_representation()
    modes = []

    def schedule(presence):
        modes.append(model.module.training)
        return presence, presence

    model.train(max_epochs=2, schedule=schedule, enable_progress_bar=False, accelerator="cpu")
    assert modes
    assert all(modes)
    assert not model.module.training


def test_users_schedule(mosaic, fit):
    seen = []

    def schedule(presence):
        seen.append(presence.shape[0])
        return presence, presence

    model = fit(mosaic, epochs=2, train={"schedule": schedule, "train_size": 0.9})
    assert sum(seen) == 2 * 81
    assert model.module.schedule == "subsets"


@pytest.mark.parametrize("schedule", ["pairs", "subsets"])
def test_named_schedules(mosaic, fit, schedule):
    assert np.isfinite(losses(fit(mosaic, train={"schedule": schedule}))).all()


@pytest.mark.parametrize("name", ["pear", 3])
def test_unknown_schedule_stops_before_training(mosaic, fit, name):
    with pytest.raises((ValueError, TypeError), match="schedule.*(pear|3).*pairs"):
        fit(mosaic, train={"schedule": name})


def test_users_masks(mosaic, fit):
    """A gene hidden from the encoder all the time keeps the weights that it began with."""
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")

    def without_first(x):
        return torch.arange(x.shape[1]).ne(0).expand_as(x)

    model = MaskedVAE(mosaic, n_latent=4, n_hidden=16, loadings_sd=math.inf)  # nothing but the data
    first = model.module.encoder.first["rna"].weight
    last = model.module.decoder.last["rna"].weight
    before = first[0].detach().clone(), last[0].detach().clone()
    options = {"enable_progress_bar": False, "accelerator": "cpu", "max_epochs": 1}
    model.train(input_masks={"rna": without_first}, output_masks={"rna": without_first}, **options)
    assert torch.equal(first[0], before[0])
    assert torch.equal(last[0], before[1])
    assert model.module.input_masks == model.module.output_masks == {}
    with pytest.raises(ValueError, match="input_masks.*'spatial'"):
        model.train(input_masks={"spatial": without_first}, **options)
    with pytest.raises(TypeError, match="`output_masks` is a function.*output_masks={'rna': "):
        model.train(output_masks=without_first, **options)


def test_a_failing_mask_leaves_no_mask_behind(mosaic, fit):
    model = fit(mosaic, epochs=1)
    with pytest.raises(ValueError, match="'rna' has to return booleans"):
        model.train(
            1, input_masks={"rna": lambda x: x}, enable_progress_bar=False, accelerator="cpu"
        )
    assert model.module.input_masks == {}


def test_last_minibatch_of_one_cell(make_mosaic, fit):
    mdata = make_mosaic(11)  # 33 cells in minibatches of 32
    model = fit(mdata, train={"train_size": 1.0})
    assert np.isfinite(losses(model)).all()


def test_epochs_follow_from_the_number_of_steps():
    assert default_epochs(5_000, 128) == 60
    assert default_epochs(100, 128) == 200
    assert default_epochs(10_000_000, 128) == 10


def test_semi_supervised_splitter_of_scvi(mosaic, fit):
    """What scvi-tools builds on top of labels finds what it needs."""
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", labels_key="some_labels")
    manager = MaskedVAE(mosaic).adata_manager
    assert manager.data_registry.labels.attr_name == "obs"
    assert manager.get_state_registry("labels").original_key == "some_labels"
    assert manager.get_state_registry("labels").unlabeled_category == "Unknown"


def test_weights_of_modalities(mosaic, fit):
    """By the entropy of an average cell; the paper's preset and the user go first."""
    model = fit(mosaic, epochs=1)
    weights = model.module.modality_weights
    p = np.asarray(mosaic["atac"].X.mean(axis=0)).ravel()
    p = p[(p > 0) & (p < 1)]
    binary = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    mean = np.asarray(mosaic["rna"].X.mean(axis=0)).ravel()
    mean = mean[mean > 0]
    geometric = ((1 + mean) * np.log(1 + mean) - mean * np.log(mean)).sum()
    assert weights["atac"] / weights["rna"] == pytest.approx((geometric / binary) ** 0.5, rel=1e-3)
    assert min(weights.values()) == 1.0
    assert set(MaskedVAE(mosaic, preset="inclust+").module.modality_weights.values()) == {1.0}
    given = MaskedVAE(mosaic, modality_weights={"rna": 7.0}).module.modality_weights
    assert given == {**weights, "rna": 7.0}


def test_head_is_fitted_to_every_view_and_saved(mosaic, fit, tmp_path, monkeypatch):
    monkeypatch.setattr("mumask.model._access.INFERENCE_BATCH", 20)
    model = fit(mosaic, setup={"labels_key": "some_labels"}, epochs=3)
    head = model.module.label_head
    assert head.fitted and not any(p.requires_grad for p in head.parameters())
    views = model._views()
    _, source, cell, repeats = model._seen_through(views)
    assert len(views) == 7 and (repeats == 7).sum() == mosaic.n_obs
    for row in range(0, len(cell), 17):  # never seen through what it does not have
        names = [m for m, shown in zip(model.modalities, source[row], strict=True) if shown]
        name = mosaic.obs_names[cell[row]]
        assert names and all(name in mosaic[m].obs_names for m in names)
    model.save(tmp_path / "model")
    again = MaskedVAE.load(tmp_path / "model", mosaic)
    np.testing.assert_array_equal(model.predict(soft=True), again.predict(soft=True))
    assert (
        fit(mosaic, setup={"labels_key": "some_labels"}, preset="inclust+").module.label_head
        is None
    )


def test_before_training_totals_are_average_and_the_head_is_not_fitted(mosaic):
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", labels_key="some_labels")
    module = MaskedVAE(mosaic, n_latent=4, n_hidden=16).module
    assert not module.label_head.fitted
    total = module.expected_total(torch.randn(3, 16), "rna")
    assert torch.allclose(total, torch.full((3, 1), module.totals["rna"].average))


def test_generated_counts_have_a_total_of_their_own(mosaic, fit):
    """Where `source` leaves the modality out; what was measured stays at an average depth."""
    model = fit(mosaic, epochs=5)
    decode = model.get_normalized_expression
    total = decode(modality="protein").sum(axis=1)
    np.testing.assert_allclose(total, total.iloc[0], rtol=1e-4)
    generated = decode(modality="protein", source="rna").dropna().sum(axis=1)
    assert generated.std() > 1e-3 * generated.mean()
    fixed = decode(modality="protein", source="rna", library_size=500).dropna().sum(axis=1)
    np.testing.assert_allclose(fixed, 500, rtol=1e-4)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives blocks back")
def test_memory_is_not_cleared_anew_in_every_step():
    """Pages that are cleared while the same large tensors come and go, in a process of its own."""
    code = f"""
import resource, torch
LARGEST_KEPT = {_plan.LARGEST_KEPT}
{inspect.getsource(_plan.keep_freed_memory)}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        tensors = [torch.ones(3_300_000) for _ in range(3)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = faults()
keep_freed_memory()
faults()
print(without, faults())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    without, kept = map(int, found.stdout.split())
    assert without > 10_000
    assert kept < without / 100


@pytest.mark.parametrize(
    "options", [{"validation_size": 0.2}, {"plan_kwargs": {"reduce_lr_on_plateau": True}}]
)
def test_validation_without_labels(mosaic, fit, options):
    model = fit(mosaic, epochs=2, train=options)
    assert len(model.validation_indices) > 0
    assert ("elbo_validation" in model.history_) == ("plan_kwargs" in options)


def test_elements_outside_of_the_output_mask_are_not_validated(mosaic, fit):
    nothing = lambda x: torch.zeros(x.shape, dtype=torch.bool)
    train = {"output_masks": dict.fromkeys(mosaic.mod, nothing), "check_val_every_n_epoch": 1}
    model = fit(mosaic, epochs=1, train={**train, "train_size": 0.7})
    assert losses(model, "reconstruction_loss_validation") == 0


def test_numbers_mark_cells_without_a_label(mosaic, fit):
    codes = mosaic.obs["cell_type"].astype("category").cat.codes.astype(int).to_numpy()
    mosaic.obs["number"] = np.where(np.arange(mosaic.n_obs) % 2, codes, -1)
    model = fit(mosaic, setup={"labels_key": "number", "unlabeled_category": -1}, epochs=1)
    assert model.classes == ["0", "1", "2", "3"]


def test_validation_is_not_judged_by_an_earlier_label_head(mosaic, fit):
    """In a second training as in the first: by the classifier that is being trained."""
    model = fit(mosaic, setup={"labels_key": "cell_type"}, epochs=3)
    tensors = model.adata_manager.create_torch_dataset()[np.arange(mosaic.n_obs)]
    model.module.eval()
    with torch.no_grad():
        out, _, losses = model.module(tensors)
        logits = model.module.classifier(out["corrected"])
    assert not torch.allclose(logits, out["logits"])
    labels = tensors["labels"].squeeze(1)
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(losses.extra_metrics["classification_loss"], expected)


def test_elbo_is_a_bound_whatever_the_weights(mosaic, fit):
    """The weights of the loss are no part of it."""
    model = fit(mosaic, setup={"labels_key": "cell_type"}, epochs=1)
    scvi.settings.seed = 0
    bound = model.get_elbo()
    model.module.weights |= {"kl": 7.0, "prior": 7.0, "reconstruction": 7.0}
    scvi.settings.seed = 0
    assert model.get_elbo() == pytest.approx(bound)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 50.0])
def test_real_values_of_any_unit(mosaic, fit, unit):
    rng, cells = np.random.default_rng(0), mosaic["protein"].obs_names
    types = mosaic.obs.loc[cells, "cell_type"].cat.codes
    values = rng.normal(size=(4, 6))[types] + 0.3 * rng.normal(size=(len(types), 6))
    mosaic["protein"].X = (10 * values + 50) * unit
    model = fit(mosaic, setup={"likelihoods": {"protein": "gaussian"}}, epochs=60)
    decoded = model.get_normalized_expression(modality="protein", indices=cells)
    residual = (decoded.to_numpy() / unit - 50) / 10 - values
    assert residual.std() < 0.5 * values.std()


def test_none_is_the_default_size_of_a_validation_set(mosaic, fit):
    assert len(fit(mosaic, epochs=1, train={"validation_size": None}).train_indices) == 90
