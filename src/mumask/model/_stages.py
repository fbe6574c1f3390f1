"""The stages of a CrossAttentionMAE: masked training, then labels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from scvi.model.base import UnsupervisedTrainingMixin

from mumask.data import MosaicSplitter, presence
from mumask.train import AutoencoderTrainingPlan

from ._calibration import LEAST_PER_TYPE
from ._label_fitting import LabelFittingMixin
from ._training import (
    SPLIT,
    allow_unused_weights,
    check_arguments,
    check_held_out,
    default_epochs,
    forget_at_start,
    kept_history,
    looks_at_held_out,
    train_on_the_rest,
)

logger = logging.getLogger("mumask")

# Steps of masked training; starting at the principal axes, more did not help.
STEPS = 540
# Cells from which input constants and axes are taken.
PREPARATION_CELLS = 20_000
# Share of the labelled cells that calibration sets aside while it judges a head.
CALIBRATION_SHARE = 0.2
CALIBRATION_STEPS = 1000
HEAD_STEPS = 2500


class StagesMixin(UnsupervisedTrainingMixin, LabelFittingMixin):
    """``train`` (stage 1) and ``finetune`` (stages 2 and 3)."""

    _training_plan_cls = AutoencoderTrainingPlan
    _data_splitter_cls = MosaicSplitter

    def train(self, max_epochs: int | None = None, batch_size: int = 64, **kwargs):
        """Stage 1: reconstruct hidden tokens. Labels are not used.

        On a model from :meth:`load_query_data` only what is new is trained.

        Parameters
        ----------
        max_epochs
            Passes over the data; by default as many as give about 540 steps (200 on a query), or
            what the preset says. 0 leaves the model at the principal axes it starts from.
        batch_size
            Cells per step.
        **kwargs
            As in scvi-tools: `accelerator`, `devices`, `train_size` (0.9 with early stopping or
            validation, else 1), `early_stopping` (of ``"validation_loss"``, here and in
            :meth:`finetune`), `plan_kwargs` (such as `lr`), `datasplitter_kwargs`, and whatever the
            trainer takes. A checkpoint is written before the embedding is centred and weighed, which
            comes at the end: load it with data, and call train(max_epochs=0).

        Examples
        --------
        >>> mumask.CrossAttentionMAE.setup_mudata(mdata, batch_key="batch", labels_key="cell_type")
        >>> model = mumask.CrossAttentionMAE(mdata)
        >>> model.train(max_epochs=2, enable_progress_bar=False)
        >>> model.get_latent_representation().shape
        (180, 48)
        """
        self._check_training_data()
        kwargs = {**self._stage_options["train"], **kwargs}
        check_arguments(kwargs, self._training_plan_cls)
        default = kwargs.pop("max_epochs", None)
        if max_epochs is None:
            budget = self._budget(STEPS, 2)
            max_epochs = default or default_epochs(self.adata.n_obs, batch_size, *budget)
        module, presence = self.module, self._which_modalities()
        if max_epochs and not module.can_hide(presence):
            raise ValueError(
                "Nothing would be hidden, so that there is nothing to learn: make the model with a "
                "`mask_ratio` above 0 and modalities of several tokens (`max_tokens`, `token_size`), "
                "or with `modality_dropout` and cells that have several modalities. "
                "train(max_epochs=0) leaves it at the principal axes."
            )
        looking = looks_at_held_out(kwargs)
        train_on_the_rest(kwargs, held_out=looking)
        if looking and max_epochs:
            check_held_out(self.adata_manager, batch_size, kwargs)
        if not self.is_trained:
            inputs = [f"{name} as {part.norm.transform}" for name, part in module.encoders.items()]
            logger.info("Inputs: %s.", ", ".join(inputs))
            self._prepare()
        self._enter("pretrain", presence)
        self._check_trainable()
        if self.mapped_ is None and max_epochs:
            self._warn_of_stand_ins()
        if self.mapped_ is None and not max_epochs:
            self._forget_labels()
        forget_at_start(self, kwargs)
        runner = self._run(max_epochs, batch_size, kwargs)
        if self.mapped_ is None:  # a query keeps the scale of the reference
            cells = self._some_cells(PREPARATION_CELLS)
            module.calibrate(lambda: self._minibatches(self.adata, cells, None))
        if self._latent_space_moves:
            self._fit_metacells()
        return runner

    def finetune(
        self,
        max_epochs: int | None = None,
        batch_size: int = 64,
        head_steps: int | None = None,
        sources: Literal["each", "all"] = "each",
        **kwargs,
    ):
        """Stages 2 and 3: learn cell types from the labelled cells.

        First the head is fitted to fixed embeddings, of labelled cells and, by consistency, of
        unlabelled ones. Then, where `max_epochs` says so, encoders, fusion and head are trained
        together; decoders are dropped and nothing is masked (scMMAE, stage 2). On a query this is
        stage 3: it needs labelled cells in the query, while predictions work without it.

        How sure to be of a label is measured at the end, on a fifth of the labelled cells, which
        are held back from all of that. Then the head, and it alone, is fitted anew to all labels.
        Where a fifth is too few (five cells per type), nothing is held back and probabilities stay
        as they are. A query keeps what the reference learned of its labels.

        Parameters
        ----------
        max_epochs
            Passes over the data in which all of the network learns; by default none, which scores
            as well on the benchmark and is fast, or what the preset says.
        batch_size
            Cells per step of these passes.
        head_steps
            Steps of fitting the head alone; by default 2,500, or none with the preset. Without any,
            1,000 are spent on the labels held back.
        sources
            ``"each"`` also shows the head single modalities (up to three: every set of them), so
            that it can label queries that have less; ``"all"`` shows everything a cell has.
        **kwargs
            As in :meth:`train`; only used with `max_epochs`. Where they ask for a split or early
            stopping, the cells so left out are those held back, and the head never learns them;
            ``train_size=1`` holds nothing back.

        Raises
        ------
        ValueError
            If no labels were registered, no cell has one, or there is nothing to train.

        Examples
        --------
        >>> model.finetune(head_steps=50)
        >>> bool(model.predict().isin(mdata.obs["cell_type"].cat.categories).all())
        True
        """
        self._check_training_data()
        labels = self._labels_to_learn()
        check_arguments(kwargs, self._training_plan_cls)
        default = {"max_epochs": 0, "head_steps": HEAD_STEPS, **self._stage_options["finetune"]}
        max_epochs = default["max_epochs"] if max_epochs is None else max_epochs
        head_steps = default["head_steps"] if head_steps is None else head_steps
        if not self.is_trained:
            raise ValueError("Run train() (stage 1) first; train(max_epochs=0) skips its epochs.")
        if sources not in ("each", "all"):
            raise ValueError(f"`sources`: {sources!r} is unknown; choose 'each' or 'all'.")
        if head_steps < 0:
            raise ValueError(f"`head_steps`={head_steps}: choose 0 or more.")
        if not (max_epochs or head_steps):
            raise ValueError("Nothing to train: `max_epochs` and `head_steps` are both 0.")
        split = self._split_asked_for(batch_size, kwargs) if max_epochs else None
        module, views = self.module, self._views()
        views = views if sources == "each" else views[:1]
        if self.mapped_ is None:  # a query keeps what the reference learned of its labels
            self._forget_labels()
        held = self._hold_back(labels) if split is None else np.concatenate(split[1:]).astype(int)
        to_learn = held if split is None else held[:0]
        if max_epochs:
            # Encoders start to learn from a good head, but from none that knows what is held back.
            if head_steps or (self.known_types_ is None and module.classifier.n_updates):
                self._head_learner(labels, views)(head_steps or CALIBRATION_STEPS, held)
            split = split or [np.setdiff1d(np.arange(len(labels)), held), held]
            splitting = {**(kwargs.get("datasplitter_kwargs") or {}), "external_indexing": split}
            self._enter("finetune", self._which_modalities())
            forget_at_start(self, kwargs, labels=False)  # a checkpoint has the head, too
            try:
                self._run(max_epochs, batch_size, {**kwargs, "datasplitter_kwargs": splitting})
            except BaseException:  # a head and encoders that are half-way to each other
                if self.mapped_ is None:
                    self._forget_labels()
                raise
            finally:
                module.stage = "pretrain"
        if len(to_learn) or not max_epochs:
            self._fit_head(labels, views, head_steps or CALIBRATION_STEPS, held)
        elif self.known_types_ is None:
            self._calibrate_on(labels, held)
        if max_epochs and self._latent_space_moves:
            self._fit_metacells()
        module.finetuned.fill_(True)
        module.eval()

    # Parts

    def _forget_labels(self) -> None:
        self.module.finetuned.fill_(False)
        self.known_types_ = None

    def _warn_of_stand_ins(self) -> None:
        """Say which modalities no cell of the training is without, by nature or by dropout."""
        stand_ins = self.module.fusion.stand_ins
        idle = [name for name, layer in stand_ins.items() if not layer.weight.requires_grad]
        if idle:
            warnings.warn(
                f"No cell is ever without {idle}, so that training does not learn what stands in for "
                "them: what is encoded or generated without them will be poor. If that is wanted, "
                "make the model with `modality_dropout` above 0.",
                UserWarning,
                stacklevel=3,
            )

    def _prepare(self) -> None:
        """Constants of the inputs, and the starting point of the weights."""
        cells = self._some_cells(PREPARATION_CELLS)
        batches = lambda: self._minibatches(self.adata, cells, None)
        self.module.fit_inputs(batches)
        if self._stage_options["start_from_axes"]:
            self.module.start_from_axes(batches)

    def _which_modalities(self) -> torch.Tensor:
        return torch.as_tensor(presence(self.adata, self.modalities))

    def _run(self, max_epochs: int, batch_size: int, kwargs: dict):
        """scvi-tools' training of the stage that the module is in."""
        if not max_epochs:
            self.is_trained_ = True
            self.module.eval()
            return None
        kwargs.setdefault("early_stopping_monitor", "validation_loss")  # every stage has one
        kwargs.setdefault("gradient_clip_val", 1.0)
        allow_unused_weights(kwargs)
        self.module.train()
        with kept_history(self):
            return UnsupervisedTrainingMixin.train(
                self, max_epochs=max_epochs, batch_size=batch_size, **kwargs
            )

    def _enter(self, stage: str, presence: torch.Tensor) -> None:
        """Enter a stage; a query's frozen weights stay frozen, but for a head to fine-tune."""
        self.module.set_stage(stage, presence)
        if self.mapped_ is None:
            return
        taking_part = {n for n, p in self.module.named_parameters() if p.requires_grad}
        unfrozen = list(self.mapped_["unfrozen"])
        if stage == "finetune":
            unfrozen.append("classifier.network")
        self._freeze(self.mapped_["known"], unfrozen)
        for name, parameter in self.module.named_parameters():
            if not (name in taking_part or name.endswith(".new") and stage == "pretrain"):
                parameter.requires_grad_(False)

    def _hold_back(self, labels: np.ndarray) -> np.ndarray:
        """Labelled cells to calibrate on, the same in every call; none where that cannot be."""
        n_classes = self.module.n_classes
        drawn = np.random.default_rng(0).permutation(np.flatnonzero(labels < n_classes))
        held = np.sort(drawn[: int(len(drawn) * CALIBRATION_SHARE)])
        few = len(held) < LEAST_PER_TYPE * n_classes
        return held[:0] if few or self.known_types_ is not None else held

    def _split_asked_for(self, batch_size: int, kwargs: dict) -> list[np.ndarray] | None:
        """Training, validation and test cells, where the caller has a say in which these are."""
        options = kwargs.get("datasplitter_kwargs") or {}
        if not (looks_at_held_out(kwargs) or SPLIT & {*kwargs, *options}):
            return None
        train_on_the_rest(kwargs, held_out=True)
        splitter = check_held_out(self.adata_manager, batch_size, kwargs)
        splitter.setup()
        return [splitter.train_idx, splitter.val_idx, splitter.test_idx]

    def _head_learner(
        self, labels: np.ndarray, views: list[list[str]]
    ) -> Callable[[int, np.ndarray], None]:
        """Function of steps and cells to leave out that fits the head anew to all others."""
        fit_without = self._head_fitter(self.module.fit_head, labels, views)

        def learn(n_steps: int, without: np.ndarray) -> None:
            # A head that knows the labels left out is too sure of them; a query goes on from there.
            if self.mapped_ is None and self.module.classifier.n_updates:
                self.module.classifier.reset()
            fit_without(n_steps, without)

        return learn

    def _fit_head(
        self, labels: np.ndarray, views: list[list[str]], n_steps: int, held: np.ndarray
    ) -> None:
        """Fit the head; before, one that leaves `held` out shows how sure a head may be."""
        learn = self._head_learner(labels, views)
        if self.known_types_ is None:
            if len(held):
                learn(min(n_steps, CALIBRATION_STEPS), held)
            self._calibrate_on(labels, held)
        learn(n_steps, held[:0])
