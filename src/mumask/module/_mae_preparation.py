"""What a CrossAttentionMAEModule takes from the data before and between its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mumask.data import keys
from mumask.nn import as_dense
from mumask.nn._agreement import Agreement
from mumask.nn._inputs import principal_axes
from mumask.nn._label_head import with_sources

# Learning rate of fine-tuning beside that of the head.
ENCODER_RATE = 0.05

# Cells with several views, by dimension, from which a modality has a say in how far views agree. With
# 2, 10, 30, 75 and 150 of them for 48 dimensions, simulated (RNA alone, neighbours of its 8 types),
# .35, .52, .60, .65 and .65 were right, and .67, .65, .68, .66 and .65 with directions as they were.
CELLS_PER_DIMENSION = 2

Minibatches = Callable[[], Iterable[Mapping[str, Tensor]]]


class MAEPreparation:
    """Constants, starting values and stages of the module it is mixed into."""

    def fit_inputs(self, minibatches: Minibatches) -> None:
        """Set the constants of input normalisation from training data.

        Parameters
        ----------
        minibatches
            Returns a fresh iterator over the training minibatches; called twice per modality.
        """
        for name in self.names:
            self.encoders[name].norm.fit(
                lambda name=name: (
                    (as_dense(t[keys.values_key(name)]), self.measured(t, name))
                    for t in minibatches()
                    if t[keys.PRESENCE][:, self.names.index(name)].any()
                )
            )

    def can_hide(self, presence: Tensor) -> bool:
        """Whether stage 1 finds something to hide in cells with these modalities, ``(n, M)``."""
        columns = list(zip(self.names, presence.any(0).tolist(), strict=True))
        several = any(here and self.encoders[m].tokens.n_tokens > 1 for m, here in columns)
        panels = any(here and getattr(self, f"drawn_{m}") is not None for m, here in columns)
        dropped = self.modality_dropout > 0 and bool((presence.sum(1) > 1).any())
        return panels or dropped or (self.mask_ratio > 0 and several)

    @torch.no_grad()
    def start_from_axes(self, minibatches: Minibatches) -> None:
        """Start encoders and decoders at the principal axes of the training data.

        A token then begins as its share of the cell's principal components, the mean of all
        tokens as the components themselves, and the decoder as the way back. A few epochs of
        masked training from a random start find only the first handful of these directions.

        Parameters
        ----------
        minibatches
            As for :meth:`fit_inputs`, which comes first.
        """
        for name, part in self.fusion.slices.items():
            first, width = part.start, part.stop - part.start
            encoder, decoder = self.encoders[name], self.decoders[name]

            def rows(name=name, norm=encoder.norm):
                for t in minibatches():
                    if t[keys.PRESENCE][:, self.names.index(name)].any():
                        yield norm(as_dense(t[keys.values_key(name)]), self.measured(t, name))

            n_axes = min(encoder.tokens.n_features, width, encoder.tokens.value.shape[2])
            axes, deviation = principal_axes(rows, n_axes)
            # Components so scaled that those of a modality have unit variance in total.
            scale = deviation.square().sum().sqrt()
            # A modality in which cells do not differ adds nothing.
            encoder.tokens.start_from(torch.where(scale > 0, axes / scale, 0.0))
            decoder.start_from(encoder.tokens.group((axes * scale).T).permute(1, 0, 2))
            columns = torch.arange(n_axes)
            for layer, to, of in (
                (self.fusion.to_latent[name], columns, columns),
                (decoder.from_latent, columns, first + columns),
            ):
                if layer.bias.any():  # else a training that could not begin has been here
                    layer.weight.mul_(0.1)
                layer.weight.index_put_((to, of), torch.ones(n_axes).to(axes))
                layer.bias.zero_()

    @torch.no_grad()
    def calibrate(self, minibatches: Minibatches) -> None:
        """Centre the embedding, and give modalities and directions the weight that is their due.

        Which modality varies most in the embedding is otherwise an accident of loss weights and
        numbers of features, and decides what neighbours and clusters look like: every one's part
        gets the same total variance. And where cells differ in what they have, a direction that
        one view of a cell tells nothing of sets those with it apart from those without: directions
        count as far as the views of a cell agree (``nn/_agreement.py``), of
        those that cells of the data have. The part of a modality that too few cells have in several
        views stays as it is. Call it after stage 1; it changes neither masked training
        nor decoding.

        Parameters
        ----------
        minibatches
            As for :meth:`fit_inputs`.
        """
        training = self.training
        self.eval()
        found = [(self.inference(t)["z"], t[keys.PRESENCE]) for t in minibatches()]
        z, presence = (torch.cat(parts) for parts in zip(*found, strict=True))
        self.latent_mean.copy_(z.mean(0))
        for part in self.fusion.slices.values():
            total = z[:, part].var(0, correction=0).sum()
            self.latent_scale[part] = total.sqrt().clamp(min=1e-6)
        agreement, known = Agreement(self.n_latent), torch.zeros(self.n_latent, dtype=torch.bool)
        views, n_cells = presence.unique(dim=0, return_counts=True)
        several = (views[:, None] | ~views).all(2).sum(1) > 1  # views of its own, and of others
        n_telling = (views * (several * n_cells)[:, None]).sum(0).tolist()
        for n, name in zip(n_telling, self.names, strict=True):
            known[self.fusion.slices[name]] = n >= CELLS_PER_DIMENSION * self.n_latent
        for tensors in minibatches() if known.any() else ():
            seen = [self.standardised(self.inference(tensors, source=v)["z"]) for v in views]
            for own in views:
                rows = (tensors[keys.PRESENCE] == own).all(1)
                agreement.add([z[rows] for z, v in zip(seen, views, strict=True) if own[v].all()])
        self.agreed.copy_(agreement.map(known))
        self.train(training)

    def standardised(self, z: Tensor) -> Tensor:
        """Embeddings ``(B, n_latent)`` with centred parts of the same total variance."""
        return (z - self.latent_mean) / self.latent_scale

    def head_input(self, corrected: Tensor, source: Tensor) -> Tensor:
        """What the head reads: the embedding at unit variance, and what it comes from."""
        z = corrected * (self.n_latent / len(self.names)) ** 0.5
        return with_sources(z, source) if self.head_sees_sources else z

    def fit_head(
        self,
        z: Tensor,
        source: Tensor,
        labels: Tensor,
        n_steps: int,
        repeats: Tensor | None = None,
    ) -> None:
        """Train the head on fixed embeddings, before everything is fine-tuned.

        Fine-tuning from there only has to improve on a good head; with a random one, its first
        steps spoil what stage 1 has learned (Kumar et al., ICLR 2022).

        Parameters
        ----------
        z, source
            ``corrected`` embeddings ``(n, n_latent)`` of labelled and unlabelled cells, and the
            modalities ``(n, M)`` they come from. A cell may come several times, encoded from
            other modalities each time.
        labels
            Codes ``(n,)``; ``n_classes`` = unlabelled.
        n_steps, repeats
            Of :meth:`mumask.nn.LabelHead.fit`.
        """
        self.classifier.fit(self.head_input(z, source), labels, n_steps, repeats)
        self.finetuned.fill_(True)

    def set_stage(
        self, stage: Literal["pretrain", "finetune"], presence: Tensor
    ) -> list[nn.Parameter]:
        """Enter a stage and freeze what takes no part in it.

        Parameters
        ----------
        stage
            ``"pretrain"`` (encoders, fusion, decoders) or ``"finetune"`` (encoders, fusion, head;
            decoders are dropped).
        presence
            Bool ``(n_cells, n_modalities)`` of the training data. Without an absent modality its
            stand-in is not used; a modality no cell has leaves its encoder and decoder unused.

        Returns
        -------
        The parameters that the stage trains. Each of them receives a gradient.
        """
        if stage == "finetune" and self.classifier is None:
            raise ValueError("The module has no cell-type head: it was made with n_classes=0.")
        self.stage = stage
        if stage == "finetune":
            self.finetuned.fill_(True)
        used = {"fusion"}
        hides = stage == "pretrain" and self.modality_dropout > 0
        for column, name in enumerate(self.names):
            if presence[:, column].any():
                used |= {f"encoders.{name}"}
                used |= {f"decoders.{name}"} if stage == "pretrain" else set()
        used |= {"decoder_covariates"} if stage == "pretrain" else {"classifier.network"}
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(name.startswith(f"{part}.") for part in used))
        for column, name in enumerate(self.names if len(self.names) > 1 else []):
            rivals = presence[:, column] & (presence.sum(1) > 1)
            absent = not bool(presence[:, column].all()) or (hides and bool(rivals.any()))
            self.fusion.stand_ins[name].requires_grad_(absent)
        return [p for p in self.parameters() if p.requires_grad]

    def parameter_groups(self, lr: float) -> list[dict]:
        """Optimiser groups of fine-tuning: the head at `lr`, everything else far slower."""
        head = [p for p in self.classifier.parameters() if p.requires_grad]
        known = {id(p) for p in head}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        return [{"params": head, "lr": lr}, {"params": rest, "lr": lr * ENCODER_RATE}]
