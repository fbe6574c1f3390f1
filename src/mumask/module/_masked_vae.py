"""Masked variational autoencoder: inClust+ for any mosaic of modalities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import nn
from torch.nn import functional as F

from mumask.data import keys
from mumask.nn import (
    LIKELIHOODS,
    SCHEDULES,
    ClusterPrior,
    Covariates,
    FittedHead,
    InputTransform,
    Metacells,
    MosaicDecoder,
    MosaicEncoder,
    TotalHead,
    both,
    check_schedule,
    kl_standard,
    label_loss,
    mean_unmasked,
    narrowed,
    users_mask,
)

from ._decoding import Decoding
from ._modality_spec import ModalitySpec, count_features
from ._mosaic_batch import MosaicBatch
from ._query_inference import LINEAR_REFINE_STEPS, QueryInference


class MaskedVAEModule(Decoding, QueryInference, MosaicBatch, BaseModuleClass):
    """One VAE with an input mask before the encoder and an output mask behind the decoder.

    The comments "step n" refer to the pseudocode of Wang et al., BMC Bioinformatics 25:41 (2024).

    Parameters
    ----------
    modalities
        Description of every modality, in the order of the presence matrix.
    n_categories
        Categories of every categorical covariate, the batch first.
    n_continuous
        Number of continuous covariates.
    n_classes
        Classes or clusters of the classifier; 0 for none.
    n_hidden, n_latent, n_layers
        Units per hidden layer, latent dimensions, hidden layers of encoder and decoder.
    n_factors
        Linear combinations of the decoder's last hidden units from which the features of a modality
        of more than a thousand outputs are decoded; None, or not less than `n_hidden`: the units
        themselves, as in the paper.
    linear_decoder
        Decode from the latent dimensions without hidden layers, and train on parts of wide
        modalities too.
    activation, dropout, layer_norm, average_sources
        See :mod:`mumask.nn`.
    arithmetic
        Latent vector arithmetic of step 4 (clustering): ``"subtract"`` gives ``Z2 = mu - E``,
        ``"add"`` gives ``Z2 = mu + E``, ``"none"`` leaves ``Z2 = mu``.
    condition_encoder, condition_decoder
        Give the covariates to the encoder, so that it can discount them, and to the decoder, so
        that `z` need not carry them.
    prior
        ``"standard"``, ``"clusters"`` or ``"mixture"``; the latter two have one mean per class of
        the classifier, see :class:`mumask.nn.ClusterPrior`.
    schedule
        Which modalities are source and target of a training step: a key of
        :data:`mumask.nn.SCHEDULES` or a function of the presence matrix.
    input_panel
        Features that the encoder sees where batches have different panels: in training those of a
        ``"random"`` one, so that every cell is also told from what the others measured, otherwise
        all; always only the ``"common"`` ones, as in the paper (Fig. 2); or the ``"own"`` ones.
    weights
        Weights of the terms of the loss: ``"reconstruction"``, ``"kl"``, ``"prior"``, ``"labels"``.
    standardize
        Centre and scale the features before the encoder; see :class:`mumask.nn.InputTransform`.
    paper_outputs
        Gaussian modalities as in the paper: rectified mean, squared error.
    loadings_sd
        Standard deviation between cells that the log mean of a count or the log rate of a binary
        feature has a priori, around its share of an average cell, from which the outputs then
        start; infinite for no prior of the decoder's output weights.
    label_head
        Room for a :class:`mumask.nn.FittedHead`; once fitted, it gives the logits outside of
        training in place of the classifier.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalitySpec],
        n_categories: Sequence[int],
        n_continuous: int = 0,
        n_classes: int = 0,
        n_hidden: int = 128,
        n_latent: int = 20,
        n_layers: int = 1,
        n_factors: int | None = 48,
        linear_decoder: bool = False,
        activation: str = "relu",
        dropout: float = 0.1,
        layer_norm: bool = True,
        average_sources: bool = True,
        arithmetic: Literal["subtract", "add", "none"] = "none",
        condition_encoder: bool = False,
        condition_decoder: bool = True,
        prior: Literal["standard", "clusters", "mixture"] = "standard",
        schedule: str | Callable = "subsets",
        input_panel: Literal["random", "common", "own"] = "random",
        weights: Mapping[str, float] | None = None,
        standardize: bool = True,
        paper_outputs: bool = False,
        loadings_sd: float = math.inf,
        label_head: bool = False,
    ):
        super().__init__()
        self.names = list(modalities)
        self.schedule, self.loadings_sd = schedule, loadings_sd
        self.paper_outputs = paper_outputs
        self.input_masks: dict[str, Callable] = {}
        self.output_masks: dict[str, Callable] = {}
        self.weights = {"reconstruction": 1.0, "kl": 1.0, "prior": 1.0, "labels": 1.0}
        self.weights |= dict(weights or {})
        self.modality_weights = {m: spec.weight for m, spec in modalities.items()}
        self.n_features = {m: spec.n_features for m, spec in modalities.items()}
        self.n_classes, self.n_latent = n_classes, n_latent
        self.sign = {"subtract": -1.0, "add": 1.0, "none": 0.0}[arithmetic]

        self.transforms, self.likelihoods = nn.ModuleDict(), nn.ModuleDict()
        for name, spec in modalities.items():
            kind = LIKELIHOODS[spec.likelihood]
            options = {"paper": paper_outputs} if spec.likelihood == "gaussian" else {}
            self.likelihoods[name] = kind(spec.n_features, **options)
            self.transforms[name] = InputTransform(
                kind.support, torch.as_tensor(spec.profile), standardize
            )
            visible = None if not spec.held_out.any() else torch.as_tensor(~spec.held_out)
            self.register_buffer(f"visible_{name}", visible)
            # Saved: a query takes over what was common to the batches of its reference.
            common = torch.as_tensor(spec.panel).all(dim=0) if input_panel == "common" else None
            self.register_buffer(f"common_{name}", common)
        self.register_panels(modalities, random=input_panel == "random")

        shape = {
            "n_hidden": n_hidden,
            "n_latent": n_latent,
            "n_layers": n_layers,
            "activation": activation,
            "dropout": dropout,
            "layer_norm": layer_norm,
        }
        self.encoder = MosaicEncoder(self.n_features, average=average_sources, **shape)
        n_outputs = {m: self.likelihoods[m].n_heads * n for m, n in self.n_features.items()}
        self.decoder = MosaicDecoder(n_outputs, **shape, n_factors=n_factors, linear=linear_decoder)
        if linear_decoder:
            self.refine_steps = LINEAR_REFINE_STEPS
        self.totals = nn.ModuleDict(
            {
                name: TotalHead(self.decoder.n_hidden, spec.total)
                for name, spec in modalities.items()
                if self.likelihoods[name].support != "real"
            }
        )
        if math.isfinite(loadings_sd):
            for name in self.totals:
                self.decoder.start_from(name, self.transforms[name].profile)
        self.latent_covariates = self.encoder_covariates = self.decoder_covariates = None
        if self.sign:
            self.latent_covariates = Covariates(n_categories, n_continuous, n_latent)
        if condition_encoder:
            self.encoder_covariates = Covariates(n_categories, n_continuous, n_hidden)
        if condition_decoder:
            self.decoder_covariates = Covariates(n_categories, n_continuous, self.decoder.n_hidden)
        self.classifier = nn.Linear(n_latent, n_classes) if n_classes else None
        self.prior = None
        if prior != "standard":
            self.prior = ClusterPrior(n_classes, n_latent, learned=prior == "mixture")
        self.label_head = (
            FittedHead(n_latent, len(self.names), n_classes) if label_head and n_classes else None
        )
        several = len(self.names) > 1
        self.metacells = Metacells(n_latent, count_features(modalities), from_others=several)

    # Masks

    def visible(self, tensors: Mapping[str, torch.Tensor], modality: str) -> torch.Tensor | None:
        """Elements that the encoder may see: measured, not held out, not hidden by the user."""
        x, common = tensors[keys.values_key(modality)], getattr(self, f"common_{modality}")
        common = None if common is None or common.all() else common
        shown = both(getattr(self, f"visible_{modality}"), common)
        return both(
            self.measured(tensors, modality),
            None if shown is None else shown.expand(x.shape[0], -1),
            users_mask(self.input_masks if self.training else {}, x, modality),
        )

    def seen(
        self, tensors: Mapping[str, torch.Tensor], modality: str, source: torch.Tensor
    ) -> torch.Tensor | None:
        """Elements that the encoder sees: what is visible, in training through a random panel.

        Of cells that are encoded from the modalities in `source`, ``(B, M)``.
        """
        visible = self.visible(tensors, modality)
        if not self.training:
            return visible
        visible = self.through_some_features(tensors, modality, visible, source)
        return self.through_random_panel(tensors, modality, visible)

    def fit_inputs(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
        """Take the scale of the inputs from minibatches of the reference, in one pass."""
        sums = dict.fromkeys(self.names, 0.0)
        for tensors in batches:
            for name in self.names:
                x = tensors[keys.values_key(name)]
                moments = self.transforms[name].moments(x, self.visible(tensors, name))
                sums[name] = sums[name] + moments.double()
        for name, moments in sums.items():
            self.transforms[name].set_scale(moments)
            if self._in_spreads(name):
                self.likelihoods[name].log_sigma.data.copy_(self.transforms[name].spread.log())

    def sources_and_targets(self, presence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Modalities to encode from and to reconstruct, booleans of shape ``(B, M)``."""
        if not self.training:
            return presence, presence
        if self.schedule in SCHEDULES:
            return SCHEDULES[self.schedule](presence)
        return check_schedule(self.schedule(presence), presence)

    # Steps 1 to 4

    def _get_generative_input(self, tensors, inference_outputs) -> dict:
        return {
            "tensors": tensors,
            "z": inference_outputs["z"],
            "covariates": self.covariates(tensors),
        }

    @auto_move_data
    def inference(self, tensors, source: torch.Tensor | None = None, sample: bool = True) -> dict:
        """Encode a minibatch.

        Parameters
        ----------
        tensors
            A minibatch.
        source
            Modalities to encode from, booleans ``(B, M)``; default: the schedule in training,
            everything present otherwise.
        sample
            Draw `z`; False takes the mean.
        """
        presence = tensors[keys.PRESENCE]
        target = presence
        if source is None:
            source, target = self.sources_and_targets(presence)
        inputs = {
            name: self.transforms[name](
                tensors[keys.values_key(name)], self.seen(tensors, name, source)
            )
            for name in self.names
        }  # step 1
        covariates, condition = self.covariates(tensors), None
        if self.encoder_covariates is not None:
            condition = self.encoder_covariates(**covariates)
        encode = partial(self.encoder, presence=presence, source=source, condition=condition)
        mean, log_var = self.posterior(tensors, inputs, encode, source, covariates)  # steps 2, 3
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp() if sample else mean  # step 4
        corrected = self.corrected(mean, covariates)
        trained = logits = None if self.classifier is None else self.classifier(corrected)  # step 5
        if self.label_head is not None and self.label_head.fitted and not self.training:
            logits = self.label_head(corrected, source)
        return {
            "mean": mean,
            "log_var": log_var,
            "z": z,
            "corrected": corrected,
            "logits": logits,
            "trained_logits": trained,
            "source": source,
            "target": target,
        }

    def corrected(self, mean: torch.Tensor, covariates: dict) -> torch.Tensor:
        """Latent arithmetic: ``Z2`` of the clustering, steps 3 and 4; ``(B, n_latent)``."""
        if self.latent_covariates is None:
            return mean
        return mean + self.sign * self.latent_covariates(**covariates)

    @auto_move_data
    def generative(self, tensors, z: torch.Tensor, covariates: dict) -> dict:
        """Decode latent vectors (step 5) up to the shared hidden layer."""
        condition = None
        if self.decoder_covariates is not None:
            condition = self.decoder_covariates(**covariates)
        return {"hidden": self.decoder(z, condition)}

    # Step 6 and the loss

    def reconstruction(self, tensors, hidden: torch.Tensor, target: torch.Tensor) -> dict:
        """Negative log-likelihood by modality, mean over unmasked elements x features, ``(B,)``."""
        losses = {}
        for column, name in enumerate(self.names):
            rows = self.rows_of(tensors, name)
            loss = hidden.new_zeros(len(hidden))
            if len(rows):
                x = tensors[keys.values_key(name)]
                mask = both(self.measured(tensors, name), users_mask(self.output_masks, x, name))
                everyone = len(rows) == len(hidden)
                having = hidden if everyone else hidden.index_select(0, rows)
                nll = self.cost(having, name, *narrowed(x, mask))
                nll = mean_unmasked(nll, mask, self.n_features[name]) * target[rows, column]
                loss = nll if everyone else loss.index_add(0, rows, nll)
            losses[name] = loss
        return losses

    def totals_loss(self, tensors, hidden: torch.Tensor) -> torch.Tensor:
        """Loss of the heads that expect totals; it has no gradient beyond them."""
        loss = hidden.new_zeros(())
        for name, head in self.totals.items():
            rows = self.rows_of(tensors, name)
            if len(rows):
                total, measured = self.measured_total(tensors, name), self.measured(tensors, name)
                if measured is not None:  # what the cell would have on a full panel
                    share = (measured * self.transforms[name].profile).sum(dim=1, keepdim=True)
                    total = total / share.clamp(min=1e-3)
                everyone = len(rows) == len(hidden)
                loss = loss + head.nll(hidden if everyone else hidden[rows], total)
        return loss

    def loss(self, tensors, inference_outputs, generative_outputs, kl_weight: float = 1.0):
        """Weighted sum of reconstruction, KL, prior and classification terms."""
        out = inference_outputs
        losses = self.reconstruction(tensors, generative_outputs["hidden"], out["target"])
        logits = out["trained_logits"]  # in validation too: not those of a head fitted earlier
        kl, divergence = self.divergence(out["corrected"], out["log_var"], logits)
        weighted = sum(self.modality_weights[m] * loss for m, loss in losses.items())
        loss = self.weights["reconstruction"] * weighted + kl_weight * divergence
        loss = loss.mean() + self.totals_loss(tensors, generative_outputs["hidden"])
        extra = {}
        if keys.LABELS in tensors and logits is not None:
            cross_entropy = label_loss(logits, tensors[keys.LABELS].squeeze(1))
            loss = loss + self.weights["labels"] * cross_entropy
            extra["classification_loss"] = cross_entropy.detach()
        return LossOutput(
            loss=loss,
            reconstruction_loss=losses,
            kl_local=kl,
            n_obs_minibatch=len(out["z"]),
            extra_metrics=extra,
        )

    def divergence(self, corrected, log_var, logits) -> tuple[dict, torch.Tensor]:
        """KL terms of the cells, each ``(B,)``, and their weighted sum."""
        if self.prior is None:
            kl = {"kl_z": kl_standard(corrected, log_var)}
            return kl, self.weights["kl"] * kl["kl_z"]
        kl_z, kl_clusters = self.prior(corrected, log_var, F.log_softmax(logits, dim=1))
        weighted = self.weights["kl"] * kl_z + self.weights["prior"] * kl_clusters
        return {"kl_z": kl_z, "kl_clusters": kl_clusters}, weighted

    def loading_precisions(self) -> dict[nn.Parameter, float]:
        """Precision of the normal prior of the decoder's output weights, by weight matrix.

        Units of the last hidden layer have about unit variance, and so have factors whose weights
        have the precision `n_hidden`. With the precision ``n / loadings_sd**2`` of its weights to n
        of them the raw output of a feature has the standard deviation `loadings_sd`; its bias is
        free. A feature seen in few cells then keeps to its mean, where it would otherwise be
        learned by heart: thousands of sparse peaks hold more weights than ones.
        """
        if math.isinf(self.loadings_sd):
            return {}
        found = {}
        for name in self.totals:
            last = self.decoder.last[name]
            found[last.weight] = last.in_features / self.loadings_sd**2
            if name in self.decoder.factors:
                found[self.decoder.factors[name].weight] = float(self.decoder.n_hidden)
        return found
