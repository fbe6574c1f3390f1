"""CrossAttentionMAE: scMMAE as a scvi-tools model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Literal

import numpy as np
from mudata import MuData

from mumask.data import keys, kind_of_name
from mumask.module import CrossAttentionMAEModule
from mumask.module._cross_attention_mae import OF_LIKELIHOOD, PRESETS
from mumask.nn._inputs import TRANSFORMS

from ._attention import AttentionMixin
from ._counterfactual import CounterfactualMixin
from ._differential import DifferentialMixin
from ._log_expression import LogExpressionMixin
from ._modality_specs import ModalitySpecsMixin
from ._query import QueryMixin
from ._stages import StagesMixin

# What counts are turned into, by what a modality measures.
TRANSFORM_OF = {"protein": "clr", "atac": "tfidf"}
OF_COUNTS = ("log1p", "clr", "tfidf")
# Weights of the reconstruction losses of the paper: RNA 0.7, protein 0.3.
PROTEIN_WEIGHT, OTHER_WEIGHT = 0.3, 0.7
# Arguments with two choices, the default first, and the least of those that are whole numbers.
CHOICES = {
    "input_panel": ("random", "own"),
    "fusion": ("attention", "addition"),
    "decoder_context": ("cell", "tokens"),
}
LEAST = {
    **dict.fromkeys(("n_latent", "n_embed", "n_heads", "max_tokens"), 1),
    **dict.fromkeys(("n_encoder_layers", "n_decoder_layers"), 0),
}
# What training does by default, and with the paper's configuration.
STAGES = {
    None: {"start_from_axes": True, "train": {}, "finetune": {}},
    "scmmae": {
        "start_from_axes": False,
        "train": {
            "max_epochs": 150,
            "early_stopping": True,
            "early_stopping_patience": 5,
        },
        "finetune": {"max_epochs": 20, "head_steps": 0},
    },
}


class CrossAttentionMAE(
    QueryMixin,
    ModalitySpecsMixin,
    StagesMixin,
    AttentionMixin,
    DifferentialMixin,
    CounterfactualMixin,
    LogExpressionMixin,
):
    """Masked autoencoder with cross-attention between modalities (scMMAE).

    Features are grouped into tokens. Each modality has a transformer encoder over its visible
    tokens; the tokens of a modality then attend to those of the others, and keep by a residual
    what is distinctive of their own. Stage 1 (:meth:`train`) predicts hidden tokens, without
    labels; stage 2 (:meth:`finetune`) learns cell types from a few labelled cells; stage 3 does so
    for a query with fewer modalities (:meth:`load_query_data`), which can be embedded and labelled
    without it as well. An absent modality is replaced by a learned projection of what is there.

    Parameters
    ----------
    mdata
        Data registered with :meth:`setup_mudata`.
    n_latent
        Dimensions of the joint embedding; by default 48 (128 with the preset).
    n_embed
        Width of a token; by default 64 (128).
    n_encoder_layers, n_decoder_layers, n_heads, dropout
        Of the transformers; by default 2, 1, 4 and 0 (6, 4, 2 and 0.1).
    max_tokens
        Largest number of tokens of a modality: features are grouped until they fit. By default 16
        (400).
    token_size
        Features per token by modality, instead of `max_tokens`.
    mask_ratio
        Share of the tokens hidden in stage 1; by default 0.15.
    modality_dropout
        Share of the training cells of which whole modalities are hidden; by default 0.5, so that
        a modality learns to stand in for the others (0 with the preset).
    transforms
        By modality what counts are turned into: ``"log1p"``, ``"clr"``, ``"tfidf"``, ``"binary"``
        or ``"identity"``. By default ``"clr"`` for modalities named protein, prot or adt,
        ``"tfidf"`` for atac or peaks, ``"binary"`` for other Bernoulli modalities, ``"identity"``
        for Gaussian ones and ``"log1p"`` for the rest.
    modality_weights
        Weight of each modality's reconstruction loss; by default those of the paper, 0.3 for
        proteins (``"clr"``) and 0.7 for anything else.
    preset
        ``"scmmae"`` for the configuration of the paper; arguments given explicitly go first.
    **module_kwargs
        Further arguments of :class:`mumask.module.CrossAttentionMAEModule`.

    References
    ----------
    Meng et al., scMMAE: masked cross-attention network for single-cell multimodal omics fusion to
    enhance unimodal omics, Briefings in Bioinformatics 26(1), bbaf010 (2025).

    Examples
    --------
    >>> mdata = mumask.datasets.simulate_mosaic(100)
    >>> mumask.CrossAttentionMAE.setup_mudata(mdata, batch_key="batch", labels_key="cell_type")
    >>> model = mumask.CrossAttentionMAE(mdata)
    >>> model.train()
    >>> model.finetune()
    >>> mdata.obsm["X_mumask"] = model.get_latent_representation()
    >>> mdata.obs["mumask_label"] = model.predict()
    """

    _module_cls = CrossAttentionMAEModule

    def __init__(
        self,
        mdata: MuData | None = None,
        n_latent: int | None = None,
        n_embed: int | None = None,
        n_encoder_layers: int | None = None,
        n_decoder_layers: int | None = None,
        n_heads: int | None = None,
        dropout: float | None = None,
        max_tokens: int | None = None,
        token_size: Mapping[str, int] | None = None,
        mask_ratio: float | None = None,
        modality_dropout: float | None = None,
        transforms: Mapping[str, str] | None = None,
        modality_weights: Mapping[str, float] | None = None,
        preset: Literal["scmmae"] | None = None,
        registry: dict | None = None,
        **module_kwargs,
    ):
        super().__init__(mdata, registry)
        module_kwargs.pop("extra_payload_autotune", None)  # of scvi.autotune, which calls train()
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"`preset`: {preset!r} is unknown; choose from {list(PRESETS)}.")
        given = {
            "n_latent": n_latent,
            "n_embed": n_embed,
            "n_encoder_layers": n_encoder_layers,
            "n_decoder_layers": n_decoder_layers,
            "n_heads": n_heads,
            "dropout": dropout,
            "max_tokens": max_tokens,
            "token_size": token_size,
            "mask_ratio": mask_ratio,
            "modality_dropout": modality_dropout,
            **module_kwargs,
        }
        options = {**PRESETS.get(preset, {})}
        options |= {name: value for name, value in given.items() if value is not None}
        self._check_options(options)
        transforms = self._transforms(transforms or {})
        weights = {
            m: PROTEIN_WEIGHT if kind == "clr" else OTHER_WEIGHT for m, kind in transforms.items()
        }
        self.module = self._module_cls(
            self._modality_specs({}, {**weights, **(modality_weights or {})}),
            n_categories=self._n_categories(),
            n_continuous=self.summary_stats.get(f"n_{keys.CONT_COVS}", 0),
            n_classes=self.summary_stats.get(f"n_{keys.LABELS}", 0),
            transforms=transforms,
            **options,
        )
        self._stage_options = STAGES[preset]
        self._model_summary_string = self._summary(preset)
        self.init_params_ = self._get_init_params(locals())

    def _check_options(self, options: dict) -> None:
        if not isinstance(sizes := options.get("token_size", {}), Mapping):
            raise TypeError(
                f"`token_size` goes by modality: token_size={{{self.modalities[0]!r}: {sizes!r}}}."
            )
        for name in sizes:
            if name not in self.modalities:
                raise ValueError(f"`token_size` names {name!r}; modalities are {self.modalities}.")
        if not 0 <= options.get("mask_ratio", 0.15) < 1:
            raise ValueError(f"`mask_ratio`={options['mask_ratio']} is not in [0, 1).")
        if not 0 <= options.get("modality_dropout", 0.5) <= 1:
            raise ValueError(f"`modality_dropout`={options['modality_dropout']} is not in [0, 1].")
        for name, (one, other) in CHOICES.items():
            if options.get(name, one) not in (one, other):
                raise ValueError(
                    f"`{name}`: {options[name]!r} is unknown; choose {one!r} or {other!r}."
                )
        numbers = {name: options[name] for name in LEAST if name in options}
        numbers |= {f"token_size[{m!r}]": size for m, size in sizes.items()}
        for name, number in numbers.items():
            if not isinstance(number, Integral) or number < LEAST.get(name, 1):
                raise ValueError(
                    f"`{name}`={number!r}: choose a whole number, at least {LEAST.get(name, 1)}."
                )
        if options.get("n_latent", 48) < len(self.modalities):
            raise ValueError("`n_latent` has to be at least the number of modalities.")

    def _transforms(self, given: Mapping[str, str]) -> dict[str, str]:
        """Input transform of every modality."""
        if not isinstance(given, Mapping):
            raise TypeError(
                f"`transforms` goes by modality: transforms={{{self.modalities[0]!r}: {given!r}}}."
            )
        chosen = {}
        for name in self.modalities:
            likelihood = self._state(keys.values_key(name))["likelihood"]
            chosen[name] = OF_LIKELIHOOD.get(likelihood, "log1p")
            if likelihood != "gaussian":
                chosen[name] = TRANSFORM_OF.get(kind_of_name(name), chosen[name])
        for name, kind in given.items():
            self._check_modality(name)
            if kind not in TRANSFORMS:
                raise ValueError(
                    f"`transforms`: {kind!r} of {name!r} is unknown; choose from {TRANSFORMS}."
                )
            if kind in OF_COUNTS and self._state(keys.values_key(name))["likelihood"] == "gaussian":
                raise ValueError(
                    f"`transforms`: {kind!r} is for counts, and {name!r} is registered with real "
                    "values, which enter as they are: leave it out, or register counts with "
                    "setup_mudata(layers=...)."
                )
        chosen |= given
        return chosen

    def _check_classifier(self) -> None:
        if not self.module.n_classes:
            raise ValueError(
                "The model has no cell types: register labels with setup_mudata(labels_key=...), "
                "then run train() and finetune()."
            )
        if not self.module.finetuned:
            raise ValueError("The cell-type head is not trained yet: run finetune() first.")

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        indices: Sequence | None = None,
        source: str | Sequence[str] | None = None,
        modality: str | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Embedding of cells.

        Parameters
        ----------
        mdata
            Data; by default those of the model. Features are matched by name.
        indices
            Cells, as numbers, booleans or names; all by default.
        source
            Modalities to encode from; by default all that a cell has.
        modality
            Only this modality's part of the stage-1 embedding: its own tokens enhanced by the
            other modalities' (or a projection of these, where a cell lacks it). In a mosaic the parts
            are those from which the joint embedding is made, by weighing its directions.
        batch_size
            Cells per minibatch.

        Returns
        -------
        The joint embedding, shape ``(n_cells, n_latent)``. After :meth:`finetune`, the last hidden
        layer of the cell-type head (`u` of the paper), which has a width of its own. A cell
        without any source modality gets NaN and a warning.

        Examples
        --------
        >>> joint = model.get_latent_representation()
        >>> rna_part = model.get_latent_representation(modality="rna")
        >>> rna_part.shape
        (180, 16)
        """
        mdata, cells = self._cells(mdata, indices)
        read, width = lambda _, out: out["embedding"], self.module.n_latent
        if modality is not None:
            self._check_modality(modality)
            part = self.module.fusion.slices[modality]
            read, width = lambda _, out: out["parts"][modality], part.stop - part.start
        elif self.module.finetuned:
            width = self.module.classifier.n_out
        return self._collect(read, width, mdata, cells, source, batch_size)
