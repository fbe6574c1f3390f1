"""MaskedVAE: inClust+ as a scvi-tools model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from mudata import MuData

from mumask.data import keys
from mumask.module import MaskedVAEModule
from mumask.nn import ACTIVATIONS, LIKELIHOODS, SCHEDULES

from ._counterfactual import CounterfactualMixin
from ._differential import PosteriorDifferentialMixin
from ._label_fitting import LabelFittingMixin
from ._latent import LatentMixin
from ._loadings import LoadingsMixin
from ._log_expression import LogExpressionMixin
from ._modality_specs import ModalitySpecsMixin
from ._predictive import PredictiveMixin
from ._query import QueryMixin
from ._training import MaskedTrainingMixin

# The configuration of the paper. Sizes and loss weights: Methods of inClust+ and of inClust.
PRESETS = {
    "inclust+": {
        "n_hidden": 200,
        "n_latent": 50,
        "n_layers": 1,
        "n_factors": None,
        "linear_decoder": False,
        "dropout": 0.0,
        "layer_norm": False,
        "average_sources": False,
        "arithmetic": "subtract",
        "condition_encoder": False,
        "condition_decoder": False,
        "prior": "clusters",
        "schedule": "pairs",
        "weights": {"reconstruction": 5.0, "kl": 1.0, "prior": 1.0, "labels": 50.0},
        "standardize": False,
        "paper_outputs": True,
        "loadings_sd": math.inf,
        "input_panel": "common",
        "label_head": False,
    }
}
DEFAULTS = {
    "prior": "mixture",
    "weights": {"reconstruction": 1.0, "kl": 0.5, "prior": 0.5, "labels": 50.0},
    "label_head": True,
}
N_CLUSTERS = 20
# With hidden layers clusters are clearer in few dimensions; classes that are taught need some more.
N_LATENT_UNLABELLED = 15
LEAST = {"n_latent": 1, "n_hidden": 1, "n_layers": 0, "n_factors": 1}
CHOICES = {
    "arithmetic": ("subtract", "add", "none"),
    "prior": ("standard", "clusters", "mixture"),
    "activation": tuple(ACTIVATIONS),
    "schedule": tuple(SCHEDULES),
    "input_panel": ("random", "common", "own"),
}


class MaskedVAE(
    QueryMixin,
    ModalitySpecsMixin,
    MaskedTrainingMixin,
    PosteriorDifferentialMixin,
    CounterfactualMixin,
    LogExpressionMixin,
    LoadingsMixin,
    LatentMixin,
    PredictiveMixin,
    LabelFittingMixin,
):
    """Masked variational autoencoder for mosaics of modalities (inClust+).

    One encoder and one decoder serve every subset of modalities: an input mask hides what a cell
    lacks, what its batch did not measure and what a training step is to predict; an output mask
    keeps what is missing out of the loss.

    Parameters
    ----------
    mdata
        Data registered with :meth:`setup_mudata`.
    n_latent
        Dimensions of the latent space; by default 20, or 15 where the decoder has hidden layers and
        no labels are registered (50 with the preset, as below in brackets).
    n_hidden
        Units per hidden layer; by default 128 (200).
    n_layers
        Hidden layers of the encoder behind its first, and of the decoder; by default 1. The decoder
        has none (``linear_decoder=True``) where neither labels nor covariates of more than one
        value are registered.
    dropout
        Dropout rate; by default 0.1 (0).
    arithmetic
        Latent vector arithmetic for covariates: ``"subtract"`` (as the preset), ``"add"`` or, by
        default, ``"none"``.
    condition_encoder, condition_decoder
        Let the encoder know the covariates, so that it can discount them, and the decoder, so that
        the latent space need not carry them; by default False and True (both False).
    prior
        ``"mixture"``, the default: normal distributions, one per class or cluster, whose means,
        variances and shares are learned; ``"clusters"``: means alone, as in the paper; or
        ``"standard"``.
    n_clusters
        Number of clusters to learn where no labels are registered, at least 2 (standard prior: 0);
        by default 20.
    held_out
        By modality, features that no encoder may see; they are reconstructed for every cell and
        enter the loss where they were measured.
    modality_weights
        Weight of each modality's reconstruction loss, which is a sum over features. By default
        (and 1 with the preset) the square root of the largest entropy of an average cell in any
        modality over the entropy in this one: half-way between features that count alike, where a
        dozen proteins are lost beside thousands of genes, and modalities that count alike.
    preset
        ``"inclust+"`` for the configuration of the paper; arguments given explicitly go first.
    **module_kwargs
        Further arguments of :class:`mumask.module.MaskedVAEModule`.

    References
    ----------
    Wang et al., inClust+: the deep generative framework with mask modules for multimodal data
    integration, imputation, and cross-modal generation, BMC Bioinformatics 25:41 (2024).

    Examples
    --------
    >>> mdata = mumask.datasets.simulate_mosaic(100)
    >>> mumask.MaskedVAE.setup_mudata(mdata, batch_key="batch")
    >>> model = mumask.MaskedVAE(mdata)
    >>> model.train()
    >>> mdata.obsm["X_mumask"] = model.get_latent_representation()
    """

    _module_cls = MaskedVAEModule

    def __init__(
        self,
        mdata: MuData | None = None,
        n_latent: int | None = None,
        n_hidden: int | None = None,
        n_layers: int | None = None,
        dropout: float | None = None,
        arithmetic: Literal["subtract", "add", "none"] | None = None,
        condition_encoder: bool | None = None,
        condition_decoder: bool | None = None,
        prior: Literal["standard", "clusters", "mixture"] | None = None,
        n_clusters: int | None = None,
        held_out: Mapping[str, Sequence[str]] | None = None,
        modality_weights: Mapping[str, float] | None = None,
        preset: Literal["inclust+"] | None = None,
        registry: dict | None = None,
        **module_kwargs,
    ):
        super().__init__(mdata, registry)
        module_kwargs.pop("extra_payload_autotune", None)  # of scvi.autotune, which calls train()
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"`preset`: {preset!r} is unknown; choose from {list(PRESETS)}.")
        given = {
            "n_latent": n_latent,
            "n_hidden": n_hidden,
            "n_layers": n_layers,
            "dropout": dropout,
            "arithmetic": arithmetic,
            "condition_encoder": condition_encoder,
            "condition_decoder": condition_decoder,
            "prior": prior,
        }
        options = {**DEFAULTS, **PRESETS.get(preset, {})}
        weights = options["weights"]
        options |= {name: value for name, value in given.items() if value is not None}
        options |= module_kwargs
        if strange := set(chosen := options["weights"] or {}) - set(weights):
            raise ValueError(f"`weights` names {sorted(strange)}; there are {list(weights)}.")
        options["weights"] = {**weights, **chosen}
        for name, choices in CHOICES.items():
            value = options.get(name)
            if isinstance(value, str) and value not in choices:
                raise ValueError(f"`{name}`: {value!r} is unknown; choose from {list(choices)}.")
        for name, least in LEAST.items():
            if (value := options.get(name)) is not None and value < least:
                raise ValueError(f"`{name}`={value}: choose at least {least}.")
        n_categories = self._n_categories()
        n_continuous = self.summary_stats.get(f"n_{keys.CONT_COVS}", 0)
        if not self.summary_stats.get(f"n_{keys.LABELS}", 0):
            options["label_head"] = False  # clusters have nothing that a head could learn
            # Hidden layers tell covariates from cells. Without, distances in the latent space are
            # those of log expression. Goes with the model: a query brings a batch of its own.
            alone = max(n_categories) == 1 and not n_continuous
            module_kwargs["linear_decoder"] = options.setdefault("linear_decoder", alone)
            if not options["linear_decoder"]:
                options.setdefault("n_latent", N_LATENT_UNLABELLED)
        by_modality = {} if preset else self._balanced_weights()
        by_modality |= dict(modality_weights or {})
        specs = self._modality_specs(held_out or {}, by_modality)
        for name, spec in specs.items():
            if options.get("input_panel") == "common" and not spec.panel.all(axis=0).any():
                raise ValueError(
                    f"`input_panel`='common': no feature of {name!r} is on the panels of all "
                    "batches. Choose input_panel='random' or 'own'."
                )
        # Batches with panels of their own are other assays, farther apart than cells are.
        same_panels = all(spec.panel.all() for spec in specs.values())
        options.setdefault("loadings_sd", 1.0 if same_panels else math.inf)
        if not (sd := options["loadings_sd"]) > 0:
            raise ValueError(
                f"`loadings_sd`={sd}: give a positive number, or math.inf for no prior."
            )
        self.module = self._module_cls(
            specs,
            n_categories=n_categories,
            n_continuous=n_continuous,
            n_classes=self._n_classes(n_clusters, options["prior"]),
            **options,
        )
        self._model_summary_string = self._summary(preset)
        self.init_params_ = self._get_init_params(locals())

    def _balanced_weights(self) -> dict[str, float]:
        """Weights half-way to modalities that count alike in an average cell; the least is 1."""
        entropy = {}
        for modality in self.modalities:
            state = self._state(keys.values_key(modality))
            mean = np.asarray(state["profile"]) * float(state["total"])
            entropy[modality] = _cell_entropy(LIKELIHOODS[state["likelihood"]].support, mean)
        return {m: (max(entropy.values()) / value) ** 0.5 for m, value in entropy.items()}

    def _n_classes(self, n_clusters: int | None, prior: str) -> int:
        n_labels = self.summary_stats.get(f"n_{keys.LABELS}", 0)
        if n_labels:
            return n_labels
        if prior == "standard":
            if n_clusters:
                raise ValueError(f"`n_clusters`={n_clusters} needs prior='mixture' or 'clusters'.")
            return 0
        n = N_CLUSTERS if n_clusters is None else n_clusters
        if n < 2:
            raise ValueError(f"`n_clusters`={n}: choose at least 2, or prior='standard' for none.")
        return n


def _cell_entropy(support: str, mean: np.ndarray) -> float:
    """Entropy of an average cell in nats, the sum over features of the given means; at least 1.

    It is what the reconstruction loss amounts to before the model knows anything of a cell:
    geometric counts (negative binomial with dispersion 1), binary values, standard normal values.
    """
    if support == "real":
        return max(1.0, 0.5 * math.log(2 * math.pi * math.e) * len(mean))
    p = np.clip(mean, 1e-12, None)
    if support == "binary":
        p = p.clip(max=1 - 1e-12)
        by_feature = -p * np.log(p) - (1 - p) * np.log1p(-p)
    else:
        by_feature = (1 + p) * np.log1p(p) - p * np.log(p)
    return max(1.0, float(by_feature.sum()))
