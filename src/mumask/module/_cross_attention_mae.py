"""Masked autoencoder over feature tokens with cross-attention: scMMAE for any set of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from mumask.data import keys
from mumask.nn import Covariates, Metacells, as_dense
from mumask.nn._fusion import CrossFusion
from mumask.nn._label_head import LINEAR_HEAD, LabelHead
from mumask.nn._token_coders import TokenDecoder, TokenEncoder
from mumask.nn._tokens import drop_modalities

from ._attention_weights import AttentionWeights
from ._mae_decoding import MAEDecoding
from ._mae_encoding import MAEEncoding
from ._mae_preparation import MAEPreparation
from ._modality_spec import ModalitySpec, count_features
from ._mosaic_batch import MosaicBatch

# What a likelihood of the registration means for the input; see mumask.nn._inputs.
OF_LIKELIHOOD = {"bernoulli": "binary", "gaussian": "identity"}

# Methods of the paper: embedding 128, six encoder and four decoder layers, two heads, dropout 0.1,
# 400 tokens of ten genes and one token per protein, 15 % hidden. Its loss weights, 0.7 and 0.3,
# belong to the modalities: ModalitySpec.weight.
PRESETS = {
    "scmmae": {
        "n_embed": 128,
        "n_latent": 128,
        "n_encoder_layers": 6,
        "n_decoder_layers": 4,
        "n_heads": 2,
        "mlp_ratio": 4.0,
        "dropout": 0.1,
        "max_tokens": 400,
        "mask_ratio": 0.15,
        "modality_dropout": 0.0,
        "decoder_context": "tokens",
        "input_panel": "own",
        "head": LINEAR_HEAD,
    }
}


class CrossAttentionMAEModule(
    MosaicBatch, MAEPreparation, MAEEncoding, MAEDecoding, AttentionWeights, BaseModuleClass
):
    """Masked autoencoder with one token encoder per modality and cross-attention between them.

    "Eq." refers to Methods of Meng et al., scMMAE, Briefings in Bioinformatics 26(1), bbaf010
    (2025). Stage 1 (``stage = "pretrain"``) reconstructs hidden tokens; stages 2 and 3
    (``stage = "finetune"``) train a cell-type head on the joint embedding, without decoders.

    Parameters
    ----------
    modalities
        Description of every modality, in the order of the presence matrix.
    n_categories
        Categories of every categorical covariate, the batch first.
    n_continuous
        Number of continuous covariates.
    n_classes
        Cell types; 0 for no head.
    transforms
        Input transform by modality (:class:`~mumask.nn.InputNorm`); by default ``"log1p"`` for
        counts, ``"binary"`` and ``"identity"`` for Bernoulli and Gaussian modalities.
    n_embed
        Token width D, a multiple of `n_heads`.
    n_latent
        Dimensions of the joint embedding.
    n_encoder_layers, n_decoder_layers, n_heads, mlp_ratio, dropout
        Of the transformers.
    max_tokens, token_size
        Features are grouped into at most `max_tokens` tokens per modality, or, by modality, into
        tokens of `token_size` features.
    mask_ratio
        Share of tokens hidden from the encoder in stage 1.
    modality_dropout
        Share of the cells of stage 1 of which random modalities (never all) are hidden entirely,
        and all of them predicted. This is what teaches the projections that stand in for an
        absent modality, and to generate it.
    decoder_context
        What decoders read: ``"cell"``, only the joint embedding (a bottleneck, so that stage 1
        trains the embedding itself), or ``"tokens"``, the fused visible tokens too (the paper).
    input_panel
        Features that stage 1 shows the encoders where batches have different panels: those of a
        ``"random"`` one of them, all others being predicted, or a cell's ``"own"``.
    fusion, distinctive
        ``"attention"`` or ``"addition"``, with or without the residual I: the paper's ablations.
    head
        Arguments of :class:`~mumask.nn.LabelHead`.
    seed
        Of the feature grouping.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalitySpec],
        n_categories: Sequence[int] = (1,),
        n_continuous: int = 0,
        n_classes: int = 0,
        transforms: Mapping[str, str] | None = None,
        n_embed: int = 64,
        n_latent: int = 48,
        n_encoder_layers: int = 2,
        n_decoder_layers: int = 1,
        n_heads: int = 4,
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
        max_tokens: int = 16,
        token_size: Mapping[str, int] | None = None,
        mask_ratio: float = 0.15,
        modality_dropout: float = 0.5,
        decoder_context: Literal["cell", "tokens"] = "cell",
        input_panel: Literal["random", "own"] = "random",
        fusion: Literal["attention", "addition"] = "attention",
        distinctive: bool = True,
        head: Mapping | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.names = list(modalities)
        self.n_classes, self.n_latent = n_classes, n_latent
        self.mask_ratio, self.modality_dropout = mask_ratio, modality_dropout
        self.decoder_context = decoder_context
        self.modality_weights = {m: spec.weight for m, spec in modalities.items()}
        self.stage: Literal["pretrain", "finetune"] = "pretrain"
        self.validating = False  # set by the training plan

        block = {"n_heads": n_heads, "dropout": dropout, "mlp_ratio": mlp_ratio}
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for number, (name, spec) in enumerate(modalities.items()):
            size = (token_size or {}).get(name, -(-spec.n_features // max_tokens))
            kind = (transforms or {}).get(name, OF_LIKELIHOOD.get(spec.likelihood, "log1p"))
            self.encoders[name] = TokenEncoder(
                spec.n_features,
                n_embed,
                size,
                n_encoder_layers,
                **block,
                transform=kind,
                seed=seed + number,
            )
            self.decoders[name] = TokenDecoder(
                self.encoders[name].tokens.n_tokens,
                size,
                n_embed,
                n_latent,
                n_decoder_layers,
                **block,
            )
        self.register_panels(modalities, random=input_panel == "random")
        self.fusion = CrossFusion(
            self.names, n_embed, n_latent, **block, kind=fusion, distinctive=distinctive
        )
        self.register_buffer("latent_mean", torch.zeros(n_latent))
        self.register_buffer("latent_scale", torch.ones(n_latent))
        self.register_buffer("agreed", torch.eye(n_latent))
        self.register_buffer("finetuned", torch.tensor(False))
        self.decoder_covariates = Covariates(n_categories, n_continuous, n_embed)
        self.classifier = None
        if n_classes:
            head = dict(head or {})
            # A linear head, as in the paper, could only shift its logits by the sources.
            self.head_sees_sources = head.get("n_layers") != 0
            n_in = n_latent + len(self.names) * self.head_sees_sources
            self.classifier = LabelHead(n_in, n_classes, **head)
        several = len(self.names) > 1
        self.metacells = Metacells(n_latent, count_features(modalities), from_others=several)

    @property
    def hiding(self) -> bool:
        """Whether tokens are hidden and predicted: in stage 1, and in its validation."""
        return self.stage == "pretrain" and (self.training or self.validating)

    # Encoding

    def _get_generative_input(self, tensors, inference_outputs) -> dict:
        return {
            "tensors": tensors,
            "z": inference_outputs["z"],
            "covariates": self.covariates(tensors),
            "fused": inference_outputs["fused"],
            "masks": inference_outputs["masks"],
            "seen": inference_outputs["seen"],
        }

    @auto_move_data
    def inference(self, tensors, source: Tensor | None = None, sample: bool = False) -> dict:
        """Encode a minibatch.

        Parameters
        ----------
        tensors
            A minibatch.
        source
            Modalities to encode from, booleans ``(B, M)``; default: all present, less what
            training hides.
        sample
            Ignored: the embedding is deterministic.

        Returns
        -------
        dict
            ``z`` ``(B, n_latent)`` as decoders read it, ``corrected`` (and ``mean``) as the
            head does (:meth:`calibrate`), ``parts`` by modality, ``embedding`` for users
            (``corrected``, after fine-tuning the head's last hidden layer), ``logits``
            ``(B, n_classes)`` or None, ``source`` ``(B, M)`` as used, ``encoded`` and ``fused``
            tokens, ``masks`` of tokens by modality, and ``seen``, the features ``(n_m, F)`` of
            the modalities of which random panels are shown.
        """
        presence = tensors[keys.PRESENCE]
        ratio = self.mask_ratio if self.hiding else 0.0
        if source is not None:
            source, ratio = source & presence, 0.0
        elif self.hiding and self.modality_dropout:
            source = drop_modalities(presence, self.modality_dropout)
        else:
            source = presence
        embedded = self.embed(tensors, source, ratio)
        standardised = self.standardised(embedded.z)
        corrected = standardised @ self.agreed
        read = None if self.classifier is None else self.head_input(corrected, source)
        return {
            "mean": corrected,
            "corrected": corrected,
            "embedding": self.classifier.hidden(read) if self.finetuned else corrected,
            "parts": {m: standardised[:, part] for m, part in self.fusion.slices.items()},
            "logits": None if read is None else self.classifier(read),
            "source": source,
            **embedded._asdict(),
        }

    # Decoding

    @auto_move_data
    def generative(
        self, tensors, z: Tensor, covariates: dict, fused=None, masks=None, seen=()
    ) -> dict:
        """Prepare decoding, and in stage 1 decode what was hidden.

        Returns
        -------
        dict
            ``hidden``: what :meth:`decode` needs; ``predictions``: by modality, standardised
            values ``(n_m, t, G)`` for the cells that have it, of the tokens hidden by `masks`, or
            of all where only some features were `seen`.
        """
        if self.stage == "finetune" and (self.training or self.validating):
            return {"hidden": None, "predictions": {}}
        hidden = self.what_decoders_read(z, covariates, fused)
        predictions = {}
        if masks is not None and self.hiding:
            for name in self.names:
                rows, mask = self.rows_of(tensors, name), masks[name]
                ids, valid = mask.hidden, mask.hidden_valid
                if name in seen:
                    ids, valid = self.all_tokens(name, len(rows)), None
                predictions[name] = self._decode_tokens(hidden, name, ids, valid, rows)
        return {"hidden": hidden, "predictions": predictions}

    # Losses

    def loss(self, tensors, inference_outputs, generative_outputs) -> LossOutput:
        """Reconstruction loss in stage 1, cross-entropy of the labelled cells afterwards."""
        if self.stage == "finetune":
            read = self.head_input(inference_outputs["corrected"], inference_outputs["source"])
            return self._label_loss(tensors, read)
        n_cells = len(tensors[keys.PRESENCE])
        total, by_cell = 0.0, {}
        for name in self.names:
            encoder, rows = self.encoders[name], self.rows_of(tensors, name)
            x, measured = as_dense(tensors[keys.values_key(name)]), self.measured(tensors, name)
            target, counted = encoder.target(x, measured)
            hidden = inference_outputs["masks"][name].is_hidden()[:, :, None]
            if name in inference_outputs["seen"]:
                hidden = hidden | ~encoder.tokens.group(inference_outputs["seen"][name])
            counted = counted & hidden
            error = (generative_outputs["predictions"][name] - target) ** 2 * counted
            error, count = error.flatten(1).sum(1), counted.flatten(1).sum(1)
            weight = self.modality_weights[name]
            # Mean over the hidden, measured elements of the minibatch, so that a cell counts by
            # what it has (Eq. loss of stage 1, weights alpha and beta).
            total = total + weight * error.sum() / count.sum().clamp(min=1)
            losses = error.new_zeros(n_cells)
            by_cell[name] = losses.index_copy(0, rows, weight * error / count.clamp(min=1))
        return LossOutput(loss=total, reconstruction_loss=by_cell, n_obs_minibatch=n_cells)

    def _label_loss(self, tensors, read: Tensor) -> LossOutput:
        """Loss of the head; see :meth:`mumask.nn.LabelHead.loss`."""
        labels = tensors[keys.LABELS].squeeze(1)
        seen = labels < self.n_classes
        loss, logits = self.classifier.loss(read, labels)
        if self.training:
            self.classifier.update()
        none = {name: logits.new_zeros(len(labels)) for name in self.names}
        return LossOutput(
            loss=loss,
            reconstruction_loss=none,
            classification_loss=loss,
            extra_metrics={"classification_loss": loss.detach()},
            logits=logits[seen],
            true_labels=labels[seen],
            n_obs_minibatch=len(labels),
        )
