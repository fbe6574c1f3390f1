"""Attention with padding, blocks, fusion of any subset of modalities."""

from __future__ import annotations

import pytest
import torch

from mumask.nn._attention import Attention, SelfBlock, pool
from mumask.nn._fusion import CrossBlock, CrossFusion, Encoded

N, T, D = 5, 6, 8


@pytest.fixture
def valid():
    flags = torch.rand(N, T, generator=torch.Generator().manual_seed(1)) < 0.6
    flags[:, 0] = True
    return flags


def test_padding_is_as_good_as_absence(valid):
    torch.manual_seed(0)
    block, x = SelfBlock(D, 2).eval(), torch.randn(N, T, D)
    out = block(x, valid)
    for i in range(N):
        alone = block(x[i : i + 1, valid[i]])
        assert torch.allclose(out[i, valid[i]], alone[0], atol=1e-6)


def test_values_of_padding_do_not_matter(valid):
    block, x = SelfBlock(D, 2).eval(), torch.randn(N, T, D)
    other = torch.where(valid[:, :, None], x, torch.full_like(x, 1e3))
    assert torch.equal(block(x, valid)[valid], block(other, valid)[valid])
    assert torch.equal(pool(x, valid), pool(other, valid))


def test_row_without_any_key_is_zero_and_finite():
    attention = Attention(D, 2)
    x = torch.randn(N, T, D, requires_grad=True)
    keys = torch.ones(N, T, dtype=torch.bool)
    keys[2] = False
    out = attention(x, x, keys)
    assert (out[2] == 0).all()
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert (attention.weights(x, x, keys)[2] == 0).all()


def test_weights_are_those_of_the_kernel(valid):
    attention, x, context = Attention(D, 2), torch.randn(N, 3, D), torch.randn(N, T, D)
    weights = attention.weights(x, context, valid)
    assert weights.shape == (N, 2, 3, T)
    assert torch.allclose(weights.sum(-1), torch.ones(N, 2, 3))
    values = attention._heads(attention.to_value(context))
    by_hand = attention.to_out((weights @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(by_hand, attention(x, context, valid), atol=1e-6)


def test_order_of_tokens_and_cells_changes_nothing(valid):
    block, x, context = CrossBlock(D, 2).eval(), torch.randn(N, 4, D), torch.randn(N, T, D)
    out = block(x, context, valid)
    order, cells = torch.randperm(T), torch.randperm(N)
    assert torch.allclose(out, block(x, context[:, order], valid[:, order]), atol=1e-6)
    assert torch.allclose(out[cells], block(x[cells], context[cells], valid[cells]), atol=1e-6)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="n_heads"):
        Attention(8, 3)


def _encoded(presence, widths=(4, 3, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    names = ["rna", "protein", "atac"][: presence.shape[1]]
    out = {}
    for column, (name, width) in enumerate(zip(names, widths, strict=False)):
        tokens = torch.randn(len(presence), width, D, generator=generator)
        rows = presence[:, column].nonzero()[:, 0]
        out[name] = Encoded(tokens[rows].requires_grad_(), None, rows)
    return out


PRESENCE = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)


@pytest.mark.parametrize("kind", ["attention", "addition"])
@pytest.mark.parametrize("distinctive", [True, False])
def test_mosaic_equals_each_cell_alone(kind, distinctive):
    torch.manual_seed(0)
    fusion = CrossFusion(["rna", "protein", "atac"], D, 3, 2, 0.0, 2.0, kind, distinctive).eval()
    encoded = _encoded(PRESENCE)
    z, fused = fusion(encoded, 5)
    assert z.shape == (5, 3)
    assert [part.stop - part.start for part in fusion.slices.values()] == [1, 1, 1]
    assert fused["rna"].tokens.shape == (3, 4, D)
    for cell in range(5):
        single = {
            name: Encoded(
                e.tokens[e.rows == cell], None, torch.zeros(int((e.rows == cell).sum())).long()
            )
            for name, e in encoded.items()
        }
        assert torch.allclose(fusion(single, 1)[0][0], z[cell], atol=1e-6)


def test_cells_do_not_mix():
    fusion = CrossFusion(["rna", "protein", "atac"], D, 3, 2, 0.0, 2.0).eval()
    encoded = _encoded(PRESENCE)
    fusion(encoded, 5)[0][1].sum().backward()
    assert (encoded["protein"].tokens.grad == 0).all()
    assert (encoded["rna"].tokens.grad[1] != 0).any()
    assert (encoded["rna"].tokens.grad[[0, 2]] == 0).all()


def test_every_parameter_learns_from_a_mosaic_and_from_one_modality():
    for presence in (PRESENCE, torch.tensor([[1, 0], [1, 0], [1, 0]], dtype=torch.bool)):
        names = ["rna", "protein", "atac"][: presence.shape[1]]
        fusion = CrossFusion(names, D, 3, 2, 0.0, 2.0)
        z, _ = fusion(_encoded(presence), len(presence))
        (z**2).sum().backward()
        for name, parameter in fusion.named_parameters():
            if len(names) == 2 and name.startswith("stand_ins.rna"):
                assert parameter.grad is None  # nobody lacks it
            else:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().max() > 0, name


def test_one_modality_needs_no_fusion():
    fusion = CrossFusion(["rna"], D, 3, 2, 0.0, 2.0)
    assert not list(fusion.blocks.parameters())
    z, _ = fusion(_encoded(torch.ones(4, 1, dtype=torch.bool)), 4)
    assert z.shape == (4, 3)
