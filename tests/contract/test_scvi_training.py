"""What we rely on in scvi-tools' training, saving and periphery, and why."""

from __future__ import annotations

import inspect

import pytest
import scvi
import torch
from scvi import REGISTRY_KEYS
from scvi.model.base import ArchesMixin, BaseModelClass
from scvi.model.base._constants import SAVE_KEYS
from scvi.module.base import BaseModuleClass, LossOutput
from scvi.train import SaveCheckpoint, TrainingPlan

from mumask.data import keys
from mumask.model._io import MODEL_FILE, WEIGHTS
from mumask.module import MaskedVAEModule
from mumask.train import MaskedTrainingPlan


def test_keys_of_the_minibatch():
    """Plans and loaders of scvi-tools look for these names."""
    assert (keys.BATCH, keys.LABELS) == (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY)
    assert (keys.BATCH, keys.LABELS) == ("batch", "labels")
    assert "." not in keys.values_key("rna") + keys.mask_key("rna")


def test_full_forward_pass_is_passed():
    """The plan calls `_get_inference_input(batch, full_forward_pass=...)` for some modules."""
    theirs = inspect.getsource(TrainingPlan)
    assert "full_forward_pass" in theirs or "full_forward_pass" in inspect.getsource(
        inspect.getmodule(TrainingPlan)
    )
    parameters = inspect.signature(MaskedVAEModule._get_inference_input).parameters
    assert parameters["full_forward_pass"].default is False


def test_number_of_cells_is_taken_from_the_first_modality():
    """Why every modality gives one loss per cell, zero where it is absent."""
    losses = {"rna": torch.ones(3), "protein": torch.ones(3)}
    assert LossOutput(loss=torch.ones(()), reconstruction_loss=losses).n_obs_minibatch == 3
    with pytest.raises(RuntimeError, match="size of tensor"):
        LossOutput(loss=torch.ones(()), reconstruction_loss={**losses, "atac": torch.ones(5)})


def test_losses_are_summed_over_modalities():
    """`get_elbo` relies on these two properties."""
    out = LossOutput(
        loss=torch.ones(()),
        reconstruction_loss={"a": torch.ones(3), "b": torch.ones(3)},
        kl_local={"z": torch.ones(3), "c": torch.ones(3)},
    )
    assert out.reconstruction_loss_sum == 6
    assert out.kl_local_sum == 6


def test_weight_decay_is_on_by_default():
    """It moves weights whose gradient is masked; our plan has none, and Adam's usual epsilon."""
    theirs = inspect.signature(TrainingPlan.__init__).parameters
    assert theirs["weight_decay"].default > 0
    assert theirs["eps"].default == 0.01
    ours = inspect.signature(MaskedTrainingPlan.__init__).parameters
    assert (ours["weight_decay"].default, ours["eps"].default) == (0.0, 1e-8)


@pytest.mark.parametrize(("weight_decay", "moves"), [(0.0, False), (1e-6, True)])
def test_weight_decay_moves_rows_without_gradient(weight_decay, moves):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.Adam([weight], lr=1e-3, weight_decay=weight_decay)
    for _ in range(20):
        optimizer.zero_grad()
        (weight[0] ** 2).sum().backward()
        optimizer.step()
    assert bool((weight[1] != 1).any()) == moves


class PlanOfScvi(MaskedTrainingPlan):
    """Our optimiser, scvi-tools' way of logging: every step, by torchmetrics."""

    training_step, validation_step = TrainingPlan.training_step, TrainingPlan.validation_step

    def log(self, *args, **kwargs):  # a minibatch holds tensors of several lengths
        super().log(*args, **{"batch_size": 32, **kwargs})


def test_history_is_that_of_scvi(make_mosaic, fit, monkeypatch):
    """We log once per epoch: same columns, same numbers (full minibatches: 64 = 2 x 32)."""
    histories = []
    options = {"train_size": 0.71, "validation_size": 0.2, "check_val_every_n_epoch": 1}
    for plan in (MaskedTrainingPlan, PlanOfScvi):
        monkeypatch.setattr("mumask.MaskedVAE._training_plan_cls", plan)
        scvi.settings.seed = 3
        setup = {"labels_key": "some_labels"}
        model = fit(make_mosaic(), setup=setup, epochs=3, train=options)
        histories.append(model.history)
    ours, theirs = histories
    assert set(ours) >= set(theirs)
    assert set(ours) - set(theirs) <= {"kl_weight"}  # logged by scvi-tools after ten steps
    for name in set(theirs) - {"kl_weight"}:
        a, b = (h[name].to_numpy(float).ravel() for h in (ours, theirs))
        assert a == pytest.approx(b, rel=1e-4), name
        assert list(ours[name].index) == list(theirs[name].index)


def test_hooks_for_our_loader():
    """`MosaicLoader` takes the batches of positions from `sampler`, the cells from a `Subset`."""
    from scvi.dataloaders import AnnDataLoader, DataSplitter
    from scvi.model.base import UnsupervisedTrainingMixin

    assert DataSplitter.data_loader_cls is AnnDataLoader
    assert BaseModelClass._data_loader_cls is AnnDataLoader
    assert UnsupervisedTrainingMixin._data_splitter_cls is DataSplitter
    for name in ("batch_size", "shuffle", "distributed_sampler", "indices"):
        assert name in inspect.signature(AnnDataLoader.__init__).parameters


def test_loader_does_not_batch_again(mosaic, fit):
    model = fit(mosaic, epochs=1)
    loader = model._make_data_loader(adata=mosaic, indices=[4, 2, 0], batch_size=2)
    assert loader.batch_size is None
    assert [list(batch) for batch in loader.sampler] == [[0, 1], [2]]
    assert list(loader.dataset.indices) == [4, 2, 0]


def test_autotune_asks_the_plan():
    """`prepare_scib_autotune` collects latent vectors under the names that its callback reads."""
    parameters = list(inspect.signature(TrainingPlan.prepare_scib_autotune).parameters)
    assert parameters == ["self", "loss_outputs", "stage"]
    source = inspect.getsource(TrainingPlan.prepare_scib_autotune)
    assert all(f'"{name}"' in source for name in ("z", "batch", "labels"))


def test_plan_can_warm_up_by_steps():
    parameters = inspect.signature(TrainingPlan.__init__).parameters
    assert {"n_steps_kl_warmup", "n_epochs_kl_warmup", "lr"} <= set(parameters)


def test_module_is_left_in_evaluation_mode(mosaic, fit):
    """Lightning does not switch it back: `train` has to, or a second training has no masks."""
    model = fit(mosaic, epochs=1)
    assert not model.module.training
    source = inspect.getsource(type(model).train)
    assert "module.train()" in source


def test_forward_is_inference_generative_loss():
    for name in ("inference", "generative", "loss", "_get_inference_input", "forward"):
        assert hasattr(BaseModuleClass, name)
    parameters = inspect.signature(MaskedVAEModule.loss).parameters
    assert "kl_weight" in parameters  # found by name to pass the warm-up


def test_only_attributes_with_an_underscore_are_saved(mosaic, fit):
    model = fit(mosaic, epochs=1)
    names = {name for name, _ in model._get_user_attributes() if name.endswith("_")}
    assert {"init_params_", "is_trained_", "history_", "registry_", "train_indices_"} <= names


def test_load_of_scvi_unpickles():
    """Why `load` is our own."""
    from scvi.model.base import _save_load

    assert "weights_only=False" in inspect.getsource(_save_load)
    assert "weights_only=True" in inspect.getsource(inspect.getmodule(fit_load()))


def fit_load():
    from mumask import MaskedVAE

    assert MaskedVAE.load.__func__ is not BaseModelClass.load.__func__
    return MaskedVAE.load


def test_names_that_checkpoints_look_for():
    """`SaveCheckpoint(load_best_on_end=True)` reads the weights from the file past `load`."""
    assert MODEL_FILE == SAVE_KEYS.MODEL_FNAME
    assert WEIGHTS == SAVE_KEYS.MODEL_STATE_DICT_KEY
    assert "save_anndata=False, overwrite=True" in inspect.getsource(SaveCheckpoint)


def test_query_mapping_of_scvi_is_not_inherited():
    """It freezes by layer name, pads at the tensor's tail and refuses MuData (see TRAPS)."""
    from mumask import MaskedVAE

    assert not issubclass(MaskedVAE, ArchesMixin)


def test_init_without_data_takes_a_registry():
    """`load(adata=False)` needs `registry` in `__init__`."""
    from mumask import MaskedVAE

    assert "registry" in inspect.signature(BaseModelClass.__init__).parameters
    assert "registry" in inspect.signature(MaskedVAE.__init__).parameters


def test_summary_stats_name_what_the_model_asks_for(mosaic, fit):
    setup = {"labels_key": "some_labels", "categorical_covariate_keys": ["site", "donor"]}
    stats = fit(mosaic, setup=setup, epochs=1).summary_stats
    assert (stats["n_batch"], stats["n_labels"]) == (3, 4)
    assert list(stats["n_cat_covs"]) == [2, 3]
    assert stats["n_features_rna"] == 14
