"""Cell-type head on the joint embedding, trained on few labels and many unlabelled cells."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Size of the entries that say which modalities an embedding comes from; others are about 1.
SOURCE_SIZE = 3.0
# What a step keeps of the running class means.
CLASS_DECAY = 0.95
FIT_BATCH = 512  # rows of a step on fixed embeddings
# Arguments that make the head the linear layer of scMMAE.
LINEAR_HEAD = {
    **dict.fromkeys(("smoothing", "noise", "consistency", "compactness", "decay"), 0.0),
    "n_layers": 0,
}


def with_sources(z: Tensor, source: Tensor) -> Tensor:
    """Embeddings ``[B, d]`` and the modalities ``[B, M]`` that they come from: ``[B, d + M]``.

    What RNA alone leaves open is decided otherwise than what RNA and protein leave open. Told
    apart, views of a cell can be labelled by one head without any of them losing accuracy.
    """
    return torch.cat([z, SOURCE_SIZE * source.to(z)], dim=1)


class LabelHead(nn.Module):
    """Small network from embedding to cell type, with a running average of itself.

    The average predicts, and teaches the head on unlabelled cells: under noise the head has to
    give the sharpened prediction that the average gives without (mean teacher, Tarvainen &
    Valpola 2017). The representation of a cell is drawn to the mean of its class (centre loss, Wen
    et al. 2016), so that clusters of it are classes rather than cuts through them. With
    ``LINEAR_HEAD`` it is the linear layer of scMMAE.

    Parameters
    ----------
    n_in, n_classes
        Dimensions of the embedding (of about unit variance), classes.
    n_hidden, n_layers, dropout
        Of the hidden layers; the last one is the representation u "before the softmax layer".
    smoothing
        Label smoothing.
    noise
        Standard deviation of the noise on unlabelled cells; labelled ones get a third of it.
    consistency, temperature
        Weight of the unlabelled cells, and to what power (its inverse) the teacher is sharpened.
    compactness
        Weight of the squared distance to the class mean, in units of the variance of all cells. From
        about 0.5 on it can draw everything to one point.
    decay
        Of the running average.
    """

    def __init__(
        self,
        n_in: int,
        n_classes: int,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout: float = 0.1,
        smoothing: float = 0.1,
        noise: float = 0.2,
        consistency: float = 1.5,
        temperature: float = 0.5,
        compactness: float = 0.1,
        decay: float = 0.99,
    ):
        super().__init__()
        self.smoothing, self.noise = smoothing, noise
        self.consistency, self.temperature, self.decay = consistency, temperature, decay
        self.compactness, self.n_classes = compactness, n_classes
        layers, width = [], n_in
        for _ in range(n_layers):
            layers += [nn.Linear(width, n_hidden), nn.GELU(), nn.Dropout(dropout)]
            width = n_hidden
        self.n_out = width
        self.network = nn.Sequential(*layers, nn.Linear(width, n_classes))
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.register_buffer("n_updates", torch.tensor(0))
        # What fitting knows of the class means; of no use afterwards, so not saved.
        self.register_buffer("class_sums", torch.zeros(n_classes, width), persistent=False)
        self.register_buffer("class_sizes", torch.zeros(n_classes, 1), persistent=False)

    def hidden(self, z: Tensor) -> Tensor:
        """Representation u of embeddings ``[B, n_in]``, by the average; ``[B, n_out]``."""
        self.average.eval()
        return self.average[:-1](z)

    def forward(self, z: Tensor) -> Tensor:
        """Logits ``[B, n_classes]`` of embeddings ``[B, n_in]``, by the average."""
        return self.average[-1](self.hidden(z))

    def loss(self, z: Tensor, labels: Tensor, ramp: float = 1.0) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the labelled cells, disagreement with the teacher on the others, spread.

        Parameters
        ----------
        z
            Embeddings ``[B, n_in]``.
        labels
            Int64 ``[B]``; the number of classes or more = unlabelled.
        ramp
            Factor of `consistency`: a teacher that knows nothing yet should not teach.

        Returns
        -------
        Loss, and the logits ``[B, n_classes]`` of the head itself.
        """
        seen = labels < self.n_classes
        noisy = z
        if self.training and self.noise:
            size = self.noise * torch.where(seen, 1 / 3, 1.0)[:, None]
            noisy = z + size * torch.randn_like(z)
        u = self.network[:-1](noisy)
        logits = self.network[-1](u)
        entropy = F.cross_entropy(
            logits[seen], labels[seen], reduction="sum", label_smoothing=self.smoothing
        )
        loss = entropy / seen.sum().clamp(min=1)
        belongs = F.one_hot(labels.clamp(max=self.n_classes - 1), self.n_classes).to(u)
        if self.consistency and not seen.all():
            with torch.no_grad():
                target = torch.softmax(self(z[~seen]) / self.temperature, 1)
            loss = loss + ramp * self.consistency * F.cross_entropy(logits[~seen], target)
            belongs = belongs.index_copy(0, (~seen).nonzero().squeeze(1), target.to(belongs))
        # The variance, in units of which the classes spread, takes two cells.
        if self.compactness and self.training and len(u) > 1:
            trust = torch.where(seen, 1.0, ramp if self.consistency else 0.0)
            loss = loss + self.compactness * self._spread(u, belongs, trust)
        return loss, logits

    def _spread(self, u: Tensor, belongs: Tensor, trust: Tensor) -> Tensor:
        """Mean squared distance of `u` ``[B, n_out]`` to the class means, over the variance of `u`.

        Parameters
        ----------
        belongs, trust
            Class probabilities ``[B, n_classes]``, and weight of each cell ``[B]``.
        """
        with torch.no_grad():
            weighted = belongs * trust[:, None]
            self.class_sums.mul_(CLASS_DECAY).add_(weighted.T @ u)
            self.class_sizes.mul_(CLASS_DECAY).add_(weighted.sum(0)[:, None])
            means = self.class_sums / self.class_sizes.clamp(min=1e-6)
            variance = u.var(0, correction=0).sum().clamp(min=1e-8)
        distance = (u - belongs @ means).square().sum(1)
        return (trust * distance).sum() / trust.sum().clamp(min=1e-6) / variance

    @torch.no_grad()
    def reset(self) -> None:
        """Start again from random weights."""
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        self.average.load_state_dict(self.network.state_dict())
        self._forget()

    def _forget(self) -> None:
        """Start the running averages anew."""
        for state in (self.n_updates, self.class_sums, self.class_sizes):
            state.zero_()

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the head; to be called once per training step."""
        step = int(self.n_updates)
        keep = min(self.decay, (step + 1) / (step + 10))
        for mean, parameter in zip(
            self.average.parameters(), self.network.parameters(), strict=True
        ):
            mean.lerp_(parameter, 1 - keep)
        self.n_updates += 1

    def fit(self, z: Tensor, labels: Tensor, n_steps: int, repeats: Tensor | None = None) -> None:
        """Train on fixed embeddings (AdamW, cosine schedule).

        Parameters
        ----------
        z, labels
            As in :meth:`loss`, all training cells at once. A quarter of every minibatch is drawn
            from the labelled cells.
        n_steps
            Steps of the optimisation.
        repeats
            Int64 ``[n]``: how often a row is drawn, relative to the others; None = all alike.
        """
        everything = torch.arange(len(labels), device=labels.device)
        if repeats is not None:
            everything = everything.repeat_interleave(repeats)
        is_seen = labels[everything] < self.n_classes
        seen = everything[is_seen]
        if not len(seen):
            return
        others = everything[~is_seen]
        n_seen = FIT_BATCH // 4 if len(others) and self.consistency else FIT_BATCH
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
        self._forget()  # also the class means of what was fitted before
        self.train().network.requires_grad_(True)
        for step in range(n_steps):
            rows = seen[torch.randint(len(seen), (n_seen,), device=z.device)]
            if n_seen < FIT_BATCH:
                drawn = torch.randint(len(others), (FIT_BATCH - n_seen,), device=z.device)
                rows = torch.cat([rows, others[drawn]])
            ramp = min(1.0, step / (0.3 * n_steps))
            loss, _ = self.loss(z[rows], labels[rows], ramp)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            self.update()
