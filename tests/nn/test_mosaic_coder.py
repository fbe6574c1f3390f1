"""Encoder of any subset of modalities."""

from __future__ import annotations

import torch

from mumask.nn import MosaicDecoder, MosaicEncoder, _mosaic_coder


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


def test_wide_modalities_are_decoded_from_a_few_factors(monkeypatch):
    """Whatever is hidden, their outputs less the bias lie in a space of so many dimensions."""
    monkeypatch.setattr(_mosaic_coder, "WIDE", 30)
    torch.manual_seed(0)
    shape = {"n_latent": 6, "n_hidden": 20, "n_layers": 1, "activation": "relu"}
    shape |= {"dropout": 0.0, "layer_norm": True}
    z = torch.randn(200, 6)

    def ranks(n_factors) -> dict[str, int]:
        decoder = MosaicDecoder({"rna": 50, "protein": 30}, **shape, n_factors=n_factors)
        raw = {m: decoder.outputs(decoder(z), m).raw() - decoder.last[m].bias for m in decoder.last}
        return {m: int(torch.linalg.matrix_rank(r, rtol=1e-5)) for m, r in raw.items()}

    whole = ranks(None)
    assert ranks(5) == {"rna": 5, "protein": whole["protein"]}
    assert ranks(20) == whole  # no fewer than there are units: the units themselves
    assert min(whole.values()) > 10
