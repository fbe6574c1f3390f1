"""Encoder of any subset of modalities."""

from __future__ import annotations

import torch

from mumask.nn import MosaicEncoder


def test_no_modality_drowns_another():
    """However large the first layer of one modality grows, it says no more than the others."""
    torch.manual_seed(0)
    encoder = MosaicEncoder(
        {"rna": 50, "protein": 5},
        n_hidden=16,
        n_latent=4,
        n_layers=1,
        activation="relu",
        dropout=0.0,
        layer_norm=True,
        average=True,
    )
    inputs = {"rna": (torch.randn(8, 50), None), "protein": (torch.randn(8, 5), None)}
    everything = torch.ones(8, 2, dtype=torch.bool)
    before, _ = encoder(inputs, everything, everything)
    with torch.no_grad():
        encoder.first["rna"].weight.mul_(100)
    after, _ = encoder(inputs, everything, everything)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
