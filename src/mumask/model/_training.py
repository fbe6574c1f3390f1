"""Training, with scvi-tools' runner, trainer and data splitter."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from math import ceil

import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import Callback
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import SaveCheckpoint, TrainingPlan

from mumask.data import MosaicManager, MosaicSplitter, keys
from mumask.nn import SCHEDULES
from mumask.train import MaskedTrainingPlan

# Optimisation steps that bring the reference data sets to a standstill; epochs follow from it.
# Without hidden layers in the decoder neighbours in the latent space go on changing for longer.
STEPS, LINEAR_STEPS = 2400, 4800
# Cells from which the scale of the inputs is taken.
SCALE_CELLS = 10_000
MIN_EPOCHS, MAX_EPOCHS = 10, 200
# Arguments with which scvi-tools' trainer looks at held-out cells.
LOOKING = (
    "early_stopping",
    "check_val_every_n_epoch",
    "enable_checkpointing",
    "learning_rate_monitor",
    "num_sanity_val_steps",
    "fast_dev_run",
)
# Arguments that say which cells those are.
SPLIT = {"train_size", "validation_size", "shuffle_set_split", "external_indexing"}


def default_epochs(
    n_cells: int, batch_size: int, steps: int = STEPS, at_least: int = MIN_EPOCHS
) -> int:
    """Epochs for a fixed budget of steps: few cells need many epochs, many cells few."""
    return min(MAX_EPOCHS, max(at_least, ceil(steps / ceil(n_cells / batch_size))))


def looks_at_held_out(kwargs: dict) -> bool:
    """Whether something in the arguments of a training looks at held-out cells."""
    plan = {**(kwargs.get("plan_config") or {}), **(kwargs.get("plan_kwargs") or {})}
    trainer = {**(kwargs.get("trainer_config") or {}), **kwargs}
    saving = any(isinstance(c, SaveCheckpoint) for c in trainer.get("callbacks") or [])
    plateau = plan.get("reduce_lr_on_plateau")
    return bool(plateau or saving or any(trainer.get(name) for name in LOOKING))


def check_arguments(kwargs: dict, plan: type[TrainingPlan]) -> None:
    """Say at once what belongs elsewhere, and what no model of 32 bits can do."""
    of_plan = {*inspect.signature(plan).parameters, *inspect.signature(TrainingPlan).parameters}
    if misplaced := sorted(of_plan & kwargs.keys()):
        raise TypeError(
            f"{misplaced} belong in `plan_kwargs`: train(plan_kwargs={{{misplaced[0]!r}: ...}})."
        )
    precision = str(kwargs.get("precision"))
    if precision.startswith("64") or precision.endswith("-true") and precision != "32-true":
        raise ValueError(
            f"`precision`={precision!r}: weights are held in 32 bits. Leave it out, or compute in "
            "mixed precision: 'bf16-mixed'."
        )


def check_held_out(manager: MosaicManager, batch_size: int, kwargs: dict) -> MosaicSplitter:
    """The split that is asked for; something has to be left for what looks at held-out cells."""
    options = {name: kwargs[name] for name in SPLIT & kwargs.keys()}
    options |= kwargs.get("datasplitter_kwargs") or {}
    with warnings.catch_warnings():  # scvi-tools will say it again
        warnings.simplefilter("ignore")
        splitter = MosaicSplitter(manager, **{"batch_size": batch_size, **options})
    if not splitter.n_val and looks_at_held_out(kwargs):
        raise ValueError(
            "Early stopping and validation look at cells that are held out, and none are. Leave "
            "out `train_size` and `validation_size` or choose others, or name such cells second in "
            "`external_indexing`."
        )
    return splitter


def train_on_the_rest(kwargs: dict, held_out: bool) -> None:
    """Train on all cells that are not for validation; on every cell where nothing is held out."""
    if kwargs.get("validation_size") is not None:
        kwargs.setdefault("train_size", 1.0 - kwargs["validation_size"])
    elif not held_out:
        kwargs.setdefault("train_size", 1.0)


def allow_unused_weights(kwargs: dict) -> None:
    """With several processes, the minibatch of one may lack a modality that another one has.

    Processes have to be told apart by the sampler of scvi-tools, which asks for DDP by its name.
    """
    devices = kwargs.get("devices", 1)
    if isinstance(devices, str) and "," in devices:
        devices = [name for name in devices.split(",") if name.strip()]
    elif isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    several = devices == -1 or (isinstance(devices, int) and devices > 1)
    if several or (isinstance(devices, list | tuple) and len(devices) > 1):
        if kwargs.get("strategy", "auto") == "auto":
            kwargs["strategy"] = "ddp"
    if kwargs.get("strategy") in ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"):
        kwargs["strategy"] += "_find_unused_parameters_true"


class ForgetFitted(Callback):
    """Forgets what was fitted to a latent space once its weights begin to move: it fits no other.

    Not before, so that a training which cannot begin leaves the model as it was.
    """

    def __init__(self, model, labels: bool):
        self.model, self.labels = model, labels

    def on_train_start(self, *_) -> None:
        """The first step is about to be taken."""
        mapped = self.model.mapped_  # a query keeps what is the reference's, where that stays put
        if mapped is None and self.labels:
            self.model._forget_labels()
        if self.model._latent_space_moves:
            self.model.module.metacells.forget()


def forget_at_start(model, kwargs: dict, labels: bool = True) -> None:
    """Add :class:`ForgetFitted` to the arguments of a training; not of `labels` that it learns."""
    given = {**(kwargs.get("trainer_config") or {}), **kwargs}.get("callbacks") or []
    kwargs["callbacks"] = [*given, ForgetFitted(model, labels)]


@contextmanager
def kept_history(model):
    """Let scvi-tools begin a history, which it does for a model that is not trained, and join both.

    By itself it goes on with the older one where a model is ready for use. But a query, or a model
    that was left at its starting point, has none; what the older one has no column for is
    forgotten; and saving checkpoints makes it forget all of the older one.
    """
    ready, before = model.is_trained_, model.history_
    model.is_trained_ = False
    try:
        yield
    finally:
        model.is_trained_ = model.is_trained_ or ready
        if before and model.history_ is not before:
            model.history_ = _joined(before, model.history_ or {})


def _joined(before: Mapping, after: Mapping) -> dict[str, pd.DataFrame]:
    """Columns of two histories, the epochs of the later counted from the end of the earlier."""
    n_before = max(len(values) for values in before.values())
    first = min((values.index.min() for values in after.values() if len(values)), default=0)
    joined = dict(before)
    for name, values in after.items():
        moved = values.set_axis(values.index - first + n_before).rename_axis(values.index.name)
        joined[name] = pd.concat([before[name], moved]) if name in before else moved
    return joined


class MaskedTrainingMixin(UnsupervisedTrainingMixin):
    """``train`` with masks."""

    _training_plan_cls = MaskedTrainingPlan
    _data_splitter_cls = MosaicSplitter

    def train(
        self,
        max_epochs: int | None = None,
        batch_size: int = 128,
        schedule: str | Callable | None = None,
        input_masks: Mapping[str, Callable] | None = None,
        output_masks: Mapping[str, Callable] | None = None,
        **kwargs,
    ):
        """Train the model.

        Parameters
        ----------
        max_epochs
            Passes over the data; by default as many as give about 2,400 steps (4,800 where the
            decoder has no hidden layers), at least 10 and at most 200, or 200 steps on a model from
            :meth:`load_query_data`, which fits one vector per new category and no other weight
            (unless `unfrozen` named some).
        batch_size
            Cells per step.
        schedule
            Which modalities of a cell are encoded and which are reconstructed in a step:
            ``"subsets"`` (a random subset of what is present, everything present), ``"pairs"``
            (the paper's stages, one ordered pair per cell), or a function that takes the presence
            matrix (bool, cells x modalities) and returns sources and targets of the same shape.
            By default what the model was made with.
        input_masks, output_masks
            By modality, a function from values (cells x features) to booleans of the same shape:
            False hides the element from the encoder, or leaves it out of the loss.
        **kwargs
            As in scvi-tools: `accelerator`, `devices`, `train_size` (0.9 where something looks at
            the other cells: early stopping, validation, the calibration of labels; else 1),
            `validation_size`, `early_stopping`, `plan_kwargs` (such as `lr`), `datasplitter_kwargs`,
            and whatever the trainer takes. Labels that are held back for the calibration alone are
            learned after it; pass `train_size` to keep them as a validation set. A checkpoint is
            written before that: its labels are those of the classifier, uncalibrated.

        Examples
        --------
        >>> mumask.MaskedVAE.setup_mudata(mdata, batch_key="batch")
        >>> model = mumask.MaskedVAE(mdata, n_latent=10)
        >>> model.train(max_epochs=2, schedule="pairs", enable_progress_bar=False)
        >>> model.is_trained
        True
        """
        self._check_training_data()
        self._check_trainable()
        check_arguments(kwargs, self._training_plan_cls)
        for argument, masks in (("input_masks", input_masks), ("output_masks", output_masks)):
            if not isinstance(masks, Mapping | None):
                raise TypeError(
                    f"`{argument}` is a {type(masks).__name__}; give a function for each modality: "
                    f"{argument}={{{self.modalities[0]!r}: ...}}."
                )
            strange = set(masks or {}) - set(self.modalities)
            if strange:
                raise ValueError(
                    f"`{argument}` names {sorted(strange)}, but the model has {self.modalities}."
                )
        if not (schedule is None or callable(schedule) or schedule in SCHEDULES):
            raise ValueError(
                f"`schedule`: {schedule!r} is unknown; choose from {list(SCHEDULES)}, or pass a "
                "function of the presence matrix."
            )
        looking = looks_at_held_out(kwargs)
        splitting = SPLIT & {*kwargs, *(kwargs.get("datasplitter_kwargs") or {})}
        calibrated = self.mapped_ is None and keys.LABELS in self.registry_["field_registries"]
        if calibrated:
            self._labels_to_learn()
        train_on_the_rest(kwargs, held_out=looking or calibrated)
        if looking:
            check_held_out(self.adata_manager, batch_size, kwargs)
        if max_epochs is None:
            steps = LINEAR_STEPS if self.module.decoder.linear else STEPS
            budget = self._budget(steps, MIN_EPOCHS)
            max_epochs = default_epochs(self.adata.n_obs, batch_size, *budget)
        if not self.is_trained:  # later training, and queries, keep the scale of the reference
            cells = np.random.default_rng(0).permutation(self.adata.n_obs)[:SCALE_CELLS]
            self.module.fit_inputs(self._minibatches(self.adata, cells, None))
        allow_unused_weights(kwargs)
        if self.mapped_ is not None:  # the reference is what is known of its weights, not a prior
            kwargs["plan_kwargs"] = {"loadings_prior": False, **(kwargs.get("plan_kwargs") or {})}
        before = self.module.schedule
        self.module.schedule = schedule or before
        self.module.input_masks = dict(input_masks or {})
        self.module.output_masks = dict(output_masks or {})
        self.module.train()  # Lightning leaves it in the mode that the last inference put it in
        forget_at_start(self, kwargs)
        try:
            with kept_history(self):
                runner = super().train(max_epochs=max_epochs, batch_size=batch_size, **kwargs)
        finally:
            self.module.schedule = before
            self.module.input_masks, self.module.output_masks = {}, {}
        if self.mapped_ is None:  # a query keeps what the reference learned of its labels
            self._fit_label_head(held_for_calibration=not (looking or splitting))
        if self._latent_space_moves:
            self._fit_metacells()
        return runner
