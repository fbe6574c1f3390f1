"""Minibatches and modules without any MuData."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mumask.module import MaskedVAEModule, ModalitySpec

SIZES = {"rna": 6, "protein": 4, "atac": 5}
# Every combination of three modalities, twice.
PRESENCE = torch.tensor([[p >> m & 1 for m in range(3)] for p in range(1, 8)] * 2).bool()


@pytest.fixture
def specs():
    """Descriptions of three modalities; keyword = field of ModalitySpec by modality."""

    def build(likelihoods, panel=None, held_out=None):
        panel, held_out = panel or {}, held_out or {}
        return {
            name: ModalitySpec(
                n_features=n,
                likelihood=likelihoods[name],
                profile=np.full(n, 1 / n),
                total=10.0,
                panel=panel.get(name, np.ones((2, n), dtype=bool)),
                held_out=held_out.get(name, np.zeros(n, dtype=bool)),
            )
            for name, n in SIZES.items()
        }

    return build


@pytest.fixture
def minibatch():
    """A mosaic minibatch of 14 cells, and the padded matrices it was cut from."""

    def build(kind="real", seed=0):
        generator = torch.Generator().manual_seed(seed)
        full = {}
        for name, n in SIZES.items():
            x = torch.randn(len(PRESENCE), n, generator=generator)
            if kind == "count":
                x = torch.poisson(x.exp(), generator=generator)
                x = (x > 0).float() if name == "atac" else x
            full[name] = x
        batch = torch.arange(len(PRESENCE)).remainder(2).unsqueeze(1)
        labels = torch.tensor([0, 1, 2, 3, 3, 1, 0] * 2).unsqueeze(1)  # 3 = unlabelled
        tensors = {"presence": PRESENCE.clone(), "batch": batch, "labels": labels}
        for m, name in enumerate(SIZES):
            tensors[f"X_{name}"] = full[name][PRESENCE[:, m]]
        return tensors, full

    return build


@pytest.fixture
def default_module(specs):
    """The default model for counts, proteins and peaks, with little to keep it fast."""

    def build(**options):
        likelihoods = {"rna": "nb", "protein": "nb", "atac": "bernoulli"}
        spec = specs(likelihoods, options.pop("panel", None), options.pop("held_out", None))
        shape = {"n_hidden": 8, "n_latent": 3, "n_categories": [2], "dropout": 0.0}
        torch.manual_seed(0)
        return MaskedVAEModule(spec, **{**shape, **options})

    return build
