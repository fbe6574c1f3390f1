from __future__ import annotations

import weakref

import pytest
import torch

from mumask.nn import InputTransform, as_dense, nonzeros, row_sums
from mumask.nn._values import FirstLayer, by_row


@pytest.fixture(params=["dense", "csr"])
def layout(request):
    return (lambda x: x) if request.param == "dense" else (lambda x: x.to_sparse_csr())


@pytest.fixture(params=[0.005, 0.3])
def counts(request):
    """Counts of few (gathered) or many (multiplied) non-zeros."""
    torch.manual_seed(0)
    return torch.poisson(torch.full((9, 80), request.param))


MASK = torch.arange(9 * 80).reshape(9, 80) % 3 > 0


def test_nonzeros(counts, layout):
    rows, columns, values = nonzeros(layout(counts))
    rebuilt = torch.zeros_like(counts)
    rebuilt[rows, columns] = values
    assert torch.equal(rebuilt, counts)
    assert torch.equal(as_dense(layout(counts)), counts)


@pytest.mark.parametrize("mask", [None, MASK])
def test_values_by_row(counts, layout, mask):
    counts[[0, 4, 8]] = 0  # the first, the last, and one between
    starts, columns, values = by_row(layout(counts), mask)
    rebuilt = torch.sparse_csr_tensor(starts.long(), columns.long(), values, counts.shape)
    assert torch.equal(rebuilt.to_dense(), counts if mask is None else counts * mask)


@pytest.mark.parametrize("mask", [None, MASK])
def test_row_sums(counts, layout, mask):
    expected = (counts if mask is None else counts * mask).sum(1, keepdim=True)
    x = layout(counts)
    torch.testing.assert_close(row_sums(x), counts.sum(1, keepdim=True))
    torch.testing.assert_close(row_sums(x, mask), expected)


def dense(result):
    """What the encoder sees: values minus offset."""
    values, offset = result
    return as_dense(values) if offset is None else as_dense(values) - offset


@pytest.mark.parametrize("support", ["count", "binary"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_counts_are_scaled_to_an_average_cell(counts, layout, mask, support):
    profile = torch.rand(80)
    profile /= profile.sum()
    transform = InputTransform(support, profile, standardize=False)
    counts = counts.clamp(max=1) if support == "binary" else counts
    before = counts.clone()
    result = dense(transform(layout(counts), mask))
    seen = counts if mask is None else counts * mask
    share = 1.0 if mask is None else (profile * mask).sum(1, keepdim=True)
    expected = torch.log1p(seen / seen.sum(1, keepdim=True).clamp(min=1) * 1e4 * share)
    torch.testing.assert_close(result, expected)
    assert torch.equal(counts, before)


def test_panels_do_not_shift_the_scale():
    """A cell looks the same in the features that it shares with a cell of a larger panel."""
    profile = torch.tensor([0.1, 0.2, 0.3, 0.4])
    transform = InputTransform("count", profile)
    x = (profile * 1000).round().unsqueeze(0)
    mask = torch.tensor([[True, False, True, False]])
    torch.testing.assert_close(dense(transform(x, mask))[mask], dense(transform(x))[mask])


def test_real_values_stay_as_they_are(counts, layout):
    transform = InputTransform("real", torch.ones(80), standardize=False)
    assert torch.equal(dense(transform(layout(counts))), counts)
    assert torch.equal(dense(transform(layout(counts), MASK)), counts * MASK)


@pytest.mark.parametrize("support", ["count", "real"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_standardisation(layout, support, mask):
    """Mean 0 over the visible elements, deviation 1 (counts: on average), however they come."""
    torch.manual_seed(3)
    x = torch.poisson(torch.rand(9, 80) * 4)
    transform = InputTransform(support, torch.full((80,), 1 / 80))
    parts = [slice(0, 4), slice(4, 9)]
    transform.set_scale(
        sum(transform.moments(layout(x[p]), None if mask is None else mask[p]) for p in parts)
    )
    plain = InputTransform(support, torch.full((80,), 1 / 80), standardize=False)
    raw = dense(plain(x, mask))
    seen = torch.ones_like(MASK) if mask is None else mask
    result = dense(transform(layout(x), mask))
    columns = [raw[seen[:, j], j] for j in range(80)]
    spreads = torch.stack([v.std(unbiased=False) if len(v) else torch.tensor(0.0) for v in columns])
    spreads = spreads.clamp(min=0.1)
    if support == "count":
        spreads = spreads[[len(v) > 0 for v in columns]].mean().expand(80)
    for j, values in enumerate(columns):
        expected = (values - values.mean()) / spreads[j]
        torch.testing.assert_close(result[seen[:, j], j], expected, rtol=1e-3, atol=1e-3)
    assert not result[~seen].any()


def test_outliers_are_cut(layout):
    transform = InputTransform("real", torch.ones(80))
    torch.manual_seed(0)
    transform.set_scale(transform.moments(torch.randn(500, 80)))
    x = torch.zeros(2, 80)
    x[0, 3] = 1e6
    result = dense(transform(layout(x)))
    assert result.max() == pytest.approx(10, abs=0.01)
    assert result[0, 3] == result.max()


@pytest.mark.parametrize("mask", [None, torch.ones(4, 80, dtype=torch.bool)])
def test_counts_are_cut_above(layout, mask):
    """Ten spreads above the mean; beside it cells without a cut, without counts, and of a fraction."""
    transform = InputTransform("count", torch.full((80,), 1 / 80))
    transform.center[:], transform.spread[:] = torch.rand(80), 0.8
    x = torch.zeros(4, 80)
    x[0, :2], x[1], x[3, 7] = torch.tensor([1.0, 5e3]), torch.arange(80.0) % 3, 0.25
    expected = (torch.log1p(x / x.sum(1, keepdim=True).clamp(min=1) * 1e4) - transform.center) / 0.8
    torch.testing.assert_close(dense(transform(layout(x), mask)), expected.clamp(max=10))
    assert (expected > 10).sum() == 1


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("support", ["count", "binary", "real"])
def test_masked_values_have_no_influence(counts, layout, support, standardize):
    transform = InputTransform(support, torch.rand(80), standardize)
    other = torch.where(MASK, counts, counts + 3)
    if standardize:
        results = []
        for x in (counts, other):
            transform.set_scale(transform.moments(layout(x), MASK))
            results.append((transform.center.clone(), transform.spread.clone()))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    one, two = (dense(transform(layout(x), MASK)) for x in (counts, other))
    assert torch.equal(one, two)
    assert not one[~MASK].any()


@pytest.mark.parametrize("shape", [(80,), (9, 80)])
def test_first_layer_subtracts_the_offset(counts, layout, shape):
    layer, offset = FirstLayer(80, 5), torch.rand(shape)
    expected = (counts - offset) @ layer.weight + layer.bias
    torch.testing.assert_close(layer(layout(counts), offset), expected)


@pytest.mark.parametrize("shape", [(80,), (9, 80)])
def test_first_layer_subtracts_before_values_are_rounded(shape):
    """Otherwise two products of some hundreds are, and differ by more than what is left of them."""
    layer, offset = FirstLayer(80, 5), torch.full(shape, 300.0)
    x = offset + torch.randn(9, 80)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x, offset)
    exact = layer(x, offset)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.02 * exact.norm()


def test_first_layer_of_dense_and_sparse_values(counts):
    layer = FirstLayer(80, 5)
    torch.nn.init.normal_(layer.bias)
    results, gradients = [], []
    for x in (counts, counts.to_sparse_csr()):
        layer.zero_grad()
        results.append(layer(x))
        results[-1].pow(2).sum().backward()
        gradients.append((layer.weight.grad.clone(), layer.bias.grad.clone()))
    torch.testing.assert_close(results[0], counts @ layer.weight + layer.bias)
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_a_minibatch_is_let_go(index):
    """What is kept with a tensor must not keep the tensor: nothing would ever free it."""
    x = torch.eye(3).to_sparse_csr()
    parts = x.crow_indices().to(index), x.col_indices().to(index), x.values()
    x = torch.sparse_csr_tensor(*parts, (3, 3))
    nonzeros(x), row_sums(x)
    alive = weakref.ref(x)
    del x
    assert alive() is None


@pytest.mark.parametrize("center", [5, 1e4])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_real_values_are_scaled_in_their_unit_and_clipped_on_both_sides(unit, center):
    torch.manual_seed(0)
    x = (torch.randn(200, 3) + center) * unit
    transform = InputTransform("real", torch.ones(3))
    transform.set_scale(transform.moments(x))
    x[0], x[1] = x[0] + 1e3 * unit, x[1] - 1e3 * unit
    values, offset = transform(x)
    standard = values - offset
    torch.testing.assert_close(standard[2:].std(dim=0), torch.ones(3), rtol=0.05, atol=0)
    torch.testing.assert_close(standard[0], torch.full((3,), 10.0))
    torch.testing.assert_close(standard[1], torch.full((3,), -10.0))


def test_features_that_nobody_measured_have_no_part_in_the_common_scale():
    moments = torch.tensor([[10.0, 10.0, 0.0], [5.0, 20.0, 0.0], [20.0, 90.0, 0.0]])
    every, measured = (InputTransform("count", torch.full((n,), 1 / n)) for n in (3, 2))
    every.set_scale(moments)
    measured.set_scale(moments[:, :2])
    assert torch.equal(every.spread[:2], measured.spread)
