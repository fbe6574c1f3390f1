"""Grouping, embedding and hiding of feature tokens; normalisation of what is visible."""

from __future__ import annotations

import muon
import numpy as np
import pytest
import torch
from anndata import AnnData

from mumask.nn._inputs import TRANSFORMS, InputNorm
from mumask.nn._token_coders import TokenEncoder
from mumask.nn._tokens import FeatureTokens, drop_modalities, random_token_mask


@pytest.mark.parametrize(("n_features", "size"), [(12, 3), (13, 5), (14, 1), (3, 8), (17, 4)])
def test_grouping_is_a_bijection(n_features, size):
    tokens = FeatureTokens(n_features, 4, size)
    x = torch.arange(1.0, n_features + 1).expand(2, -1)
    grouped = tokens.group(x)
    assert grouped.shape == (2, tokens.n_tokens, size)
    assert torch.equal(tokens.ungroup(grouped), x)
    assert sorted(grouped[0][tokens.exists].tolist()) == x[0].tolist()
    assert (grouped[0][~tokens.exists] == 0).all()
    per_token = tokens.exists.sum(1)
    assert per_token.min() >= 1
    assert per_token.max() - per_token.min() <= 1


def test_grouping_depends_on_the_seed_only():
    a, b, c = (FeatureTokens(50, 4, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(a.members, b.members)
    assert not torch.equal(a.members, c.members)


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.15, 0.5, 0.9])
def test_mask_partitions_the_tokens(ratio):
    mask = random_token_mask(7, 20, ratio)
    both = torch.cat([mask.visible, mask.hidden], 1)
    assert torch.equal(both.sort(1).values, torch.arange(20).expand(7, -1))
    assert mask.hidden.shape[1] == round(20 * ratio)
    assert mask.visible_valid is None
    assert mask.hidden_valid is None
    assert torch.equal(mask.seen.nonzero()[:, 1].view(7, -1), mask.visible.sort(1).values)
    assert torch.equal(mask.is_hidden(), ~mask.seen)


def test_mask_with_unmeasured_tokens():
    measured = torch.rand(30, 12, generator=torch.Generator().manual_seed(0)) < 0.6
    measured[0], measured[1] = False, False
    measured[1, 3] = True
    mask = random_token_mask(30, 12, 0.4, measured)
    hidden = mask.is_hidden()
    assert not (mask.seen & hidden).any()
    assert torch.equal(mask.seen | hidden, measured)
    counts = measured.sum(1)
    wanted = torch.minimum((counts * 0.4).round().clamp(min=1), (counts - 1).clamp(min=0))
    assert torch.equal(hidden.sum(1), wanted.long())
    assert mask.seen[1, 3]
    for ids, valid, flags in (
        (mask.visible, mask.visible_valid, mask.seen),
        (mask.hidden, mask.hidden_valid, hidden),
    ):
        assert torch.equal(valid.sum(1), flags.sum(1))
        for row in range(30):
            assert set(ids[row][valid[row]].tolist()) == set(flags[row].nonzero()[:, 0].tolist())


def test_mask_is_random_by_row_and_reproducible():
    masks = []
    for _ in range(2):
        torch.manual_seed(3)
        masks.append(random_token_mask(40, 30, 0.5))
    a, b = masks
    assert torch.equal(a.visible, b.visible)
    assert len({tuple(row.tolist()) for row in a.seen}) > 30
    share = random_token_mask(4000, 10, 0.3).is_hidden().float().mean(0)
    assert (share - 0.3).abs().max() < 0.05


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_mask_ratio_is_checked(ratio):
    with pytest.raises(ValueError, match="mask ratio"):
        random_token_mask(2, 4, ratio)


def test_empty_minibatch():
    mask = random_token_mask(0, 6, 0.5)
    assert mask.visible.shape == (0, 3)
    mask = random_token_mask(0, 6, 0.5, torch.zeros(0, 6, dtype=torch.bool))
    assert mask.hidden.shape[0] == 0


def test_drop_modalities_keeps_one():
    presence = torch.rand(3000, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    presence = presence[presence.any(1)]
    left = drop_modalities(presence, 0.5)
    assert not (left & ~presence).any()
    assert left.any(1).all()
    several = presence.sum(1) > 1
    touched = (left != presence).any(1)
    assert not touched[~several].any()
    assert abs(touched[several].float().mean() - 0.5) < 0.05
    assert torch.equal(drop_modalities(presence, 0.0), presence)


def test_missing_features_differ_from_average_ones():
    tokens = FeatureTokens(8, 5, 4)
    x = torch.zeros(1, tokens.n_tokens, 4)
    measured = torch.ones(1, tokens.n_tokens, 4, dtype=torch.bool)
    assert torch.allclose(tokens(x), tokens(x, measured))
    measured[0, 1, 2] = False
    out = tokens(x, measured)
    assert torch.equal(out[0, 0], tokens(x)[0, 0])
    assert not torch.allclose(out[0, 1], tokens(x)[0, 1])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_hidden_and_unmeasured_values_do_not_reach_visible_tokens(transform):
    torch.manual_seed(0)
    encoder = TokenEncoder(30, 8, 4, 1, 2, 0.0, 2.0, transform, 0)
    x = torch.poisson(torch.full((6, 30), 3.0))
    encoder.norm.fit(lambda: [(x, None)])
    measured = torch.rand(6, 30) < 0.8
    mask = random_token_mask(6, encoder.tokens.n_tokens, 0.4, encoder.tokens.group(measured).any(2))
    out, valid = encoder(x, measured, mask)
    of_hidden = encoder.tokens.ungroup(mask.is_hidden()[:, :, None].expand(-1, -1, 4))
    changed = torch.where(of_hidden | ~measured, x + 100.0, x)
    again, _ = encoder(changed, measured, mask)
    keep = torch.ones(out.shape[:2], dtype=torch.bool) if valid is None else valid
    assert torch.equal(out[keep], again[keep])


def test_tokens_that_all_cells_lack_are_left_out():
    """A cell is encoded as it is beside cells that lack nothing."""
    torch.manual_seed(0)
    encoder = TokenEncoder(30, 8, 4, 1, 2, 0.0, 2.0, "identity", 0)
    x, measured = torch.randn(6, 30), torch.ones(6, 30, dtype=torch.bool)
    measured[:3, encoder.tokens.members[:2].flatten()] = False

    def encoded(rows):
        there = encoder.tokens.group(measured[rows]).any(2)
        mask = random_token_mask(len(there), encoder.tokens.n_tokens, 0.0, there)
        return encoder(x[rows], measured[rows], mask)

    alone, valid = encoded(slice(0, 3))
    together, checks = encoded(slice(0, 6))
    assert valid is None
    assert alone.shape[1] == encoder.tokens.n_tokens - 2
    torch.testing.assert_close(alone.flatten(0, 1), together[:3][checks[:3]])


def test_size_factor_does_not_depend_on_the_panel():
    profile = torch.rand(2000) + 0.1
    x = profile[None] * torch.tensor([[5.0], [50.0]])
    norm = InputNorm(2000)
    norm.fit(lambda: [(x, None)])
    half = torch.arange(2000) < 1000
    whole, part = norm.normalise(x), norm.normalise(x, half.expand(2, -1))
    assert torch.allclose(whole[:, half], part[:, half], atol=1e-4)
    assert torch.allclose(whole[0], whole[1], atol=1e-4)


def test_clr_is_that_of_muon_and_keeps_how_much_a_cell_binds():
    x = torch.poisson(torch.rand(50, 10) * 20)
    norm = InputNorm(10, "clr")
    norm.fit(lambda: [(x[:20], None), (x[20:], None)])
    adata = AnnData(x.numpy().copy())
    muon.prot.pp.clr(adata, axis=0, flavor="stoeckius")
    np.testing.assert_allclose(norm.normalise(x), adata.X, rtol=1e-4, atol=1e-5)
    panel = (torch.arange(10) < 4).expand(50, -1)
    assert torch.equal(norm.normalise(x, panel), norm.normalise(x))
    twice = norm.normalise(2 * x)
    assert torch.allclose(norm.share(twice), 2 * x, atol=1e-3)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_inputs_are_standardised(transform):
    x = torch.poisson(torch.rand(400, 12) * 4)
    norm = InputNorm(12, transform)
    norm.fit(lambda: ((part, None) for part in x.split(64)))
    out = norm(x)
    assert out.mean(0).abs().max() < 1e-3
    assert (out.std(0) - 1).abs().max() < 0.05
    measured = torch.rand(400, 12) < 0.5
    assert (norm(x, measured)[~measured] == 0).all()


@pytest.mark.parametrize("transform", ["log1p", "clr", "binary", "identity"])
def test_values_come_back(transform):
    x = torch.poisson(torch.rand(30, 12) * 4)
    x = (x > 2).float() if transform == "binary" else x
    norm = InputNorm(12, transform)
    norm.fit(lambda: [(x, None)])
    back = norm.to_values(norm.destandardise(norm.standardise(norm.normalise(x))), x.sum(1, True))
    assert torch.allclose(back, x, atol=1e-2)


@pytest.mark.parametrize("transform", ["log1p", "tfidf"])
def test_a_panel_tells_how_deep_a_cell_is(transform):
    """Of cells of average composition, everything comes back from the total of a few features."""
    share = torch.linspace(0.5, 3.0, 40) / 70
    x = share * torch.tensor([[5.0], [10.0], [20.0]])
    norm = InputNorm(40, transform)
    norm.base.copy_(share / share.sum())
    norm.depth.fill_(float(10 * share.sum()))
    open_value = torch.log1p(1e4 / norm.depth)  # of a peak; the mean over cells is a share of it
    values = norm.normalise(x) if transform == "log1p" else (10 * share * open_value).expand(3, -1)
    panel = (torch.arange(40) % 5 == 0).expand(3, -1)
    assert torch.allclose(norm.to_values(values, (x * panel).sum(1, True), panel), x, rtol=1e-3)
    everything = torch.ones_like(panel)
    total = x.sum(1, True)
    assert torch.allclose(norm.to_values(values, total, everything), norm.to_values(values, total))


def test_the_mean_of_a_peak_is_its_probability():
    """What a perfect decoder would say of cells that differ by chance alone."""
    torch.manual_seed(0)
    chance = torch.linspace(0.01, 0.6, 50)
    x = (torch.rand(4000, 50) < chance).float()
    norm = InputNorm(50, "tfidf")
    norm.fit(lambda: [(x, None)])
    mean = norm.normalise(x).mean(0, keepdim=True)
    total = norm.share(mean).sum(1, keepdim=True)
    assert total.item() == pytest.approx(x.sum(1).mean().item(), rel=0.02)
    assert torch.allclose(norm.to_values(mean, total)[0], x.mean(0), rtol=0.15)
    assert norm.to_values(mean, 2 * total)[0].sum() > 1.8 * total


def test_noise_in_what_is_decoded_of_a_panel_stays_there():
    """Five features are decoded at half or twice their values; what is imputed hardly changes."""
    torch.manual_seed(0)
    norm = InputNorm(500, "log1p")
    x = torch.poisson(torch.full((30, 500), 4.0))
    panel = (torch.arange(500) < 5).expand(30, -1)
    total, before = (x * panel).sum(1, True), norm.normalise(x)
    noisy = torch.where(torch.rand(30, 1) < 0.5, 0.5, 2.0) * before.expm1()
    after = torch.where(panel, noisy.log1p(), before)
    one, other = (norm.to_values(values, total, panel)[:, 5:] for values in (before, after))
    assert ((other - one).abs() <= 0.02 * one).all()


def test_unknown_transform():
    with pytest.raises(ValueError, match="log1p"):
        InputNorm(3, "sqrt")
