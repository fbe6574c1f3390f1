from __future__ import annotations

import pytest
import torch

from mumask.nn import (
    SCHEDULES,
    both,
    check_schedule,
    mean_unmasked,
    narrowed,
    pair_schedule,
    subset_schedule,
    through_panels,
)

# All non-empty subsets of three modalities, many times.
PRESENCE = torch.tensor([[p >> m & 1 for m in range(3)] for p in range(1, 8)] * 400).bool()


def test_product_of_masks():
    a, b = torch.tensor([[True, True, False]]), torch.tensor([[True], [False]])
    assert both() is None
    assert both(None, None) is None
    assert both(a, None) is a
    assert both(a, b, None).tolist() == [[True, True, False], [False, False, False]]


@pytest.mark.parametrize("schedule", SCHEDULES.values())
def test_schedules_stay_within_what_is_present(schedule):
    source, target = schedule(PRESENCE)
    for mask in (source, target):
        assert mask.dtype == torch.bool
        assert mask.shape == PRESENCE.shape
        assert not (mask & ~PRESENCE).any()
        assert mask.any(dim=1).all()
    assert torch.equal(torch.stack(check_schedule((source, target), PRESENCE)[:1])[0], source)


def test_subsets_decode_everything_and_encode_every_subset():
    source, target = subset_schedule(PRESENCE)
    assert torch.equal(target, PRESENCE)
    full = PRESENCE.all(dim=1)
    codes = (source[full] * torch.tensor([1, 2, 4])).sum(dim=1)
    share = torch.bincount(codes, minlength=8) / full.sum()
    # A third is joint; of the rest one in eight each, and the empty draw goes to one modality.
    expected = torch.full((8,), 2 / 3 / 8)
    expected[[1, 2, 4]] += 2 / 3 / 8 / 3
    expected[7] += 1 / 3
    expected[0] = 0
    torch.testing.assert_close(share, expected, atol=0.06, rtol=0)


def test_pairs_visit_every_ordered_pair_evenly():
    source, target = pair_schedule(PRESENCE)
    assert (source.sum(1) == 1).all()
    assert (target.sum(1) == 1).all()
    full = PRESENCE.all(dim=1)
    pairs = source[full].int().argmax(1) * 3 + target[full].int().argmax(1)
    share = torch.bincount(pairs, minlength=9) / full.sum()
    torch.testing.assert_close(share, torch.full((9,), 1 / 9), atol=0.06, rtol=0)


def test_cells_are_seen_through_every_panel():
    panels = torch.tensor([[True, True, False, False], [False, True, True, True]])
    visible = torch.tensor([[True] * 4, [True, True, False, False], [True] + [False] * 3] * 300)
    seen = through_panels(visible, panels)
    assert not (seen & ~visible).any()
    for kind, expected in enumerate(([0b1100, 0b0111], [0b1100, 0b0100], [0b1000, 0b1000])):
        codes = (seen[kind::3] * torch.tensor([8, 4, 2, 1])).sum(dim=1)
        assert set(codes.tolist()) == set(expected)  # the third has nothing of panel two
    share = (seen[::3] == panels[0]).all(dim=1).float().mean()
    assert 0.4 < share < 0.6


def test_few_features_are_picked_out():
    x = torch.arange(8.0).view(2, 4)
    mask = torch.tensor([[False, True, False, False], [False, True, False, True]])
    for values in (x, x.to_sparse_csr()):
        few, some, columns = narrowed(values, mask)
        assert few.tolist() == [[1, 3], [5, 7]]
        assert some.tolist() == [[True, False], [True, True]]
        assert columns.tolist() == [1, 3]
    for other in (None, torch.ones_like(mask), torch.zeros_like(mask)):  # nothing to gain
        assert narrowed(x, other) == (x, other, None)


def test_users_schedule_is_confined():
    everything = torch.ones_like(PRESENCE)
    source, target = check_schedule((everything, everything.float()), PRESENCE)
    assert torch.equal(source, PRESENCE)
    assert torch.equal(target, PRESENCE)
    with pytest.raises(ValueError, match="without any source modality"):
        check_schedule((torch.zeros_like(PRESENCE), everything), PRESENCE)


@pytest.mark.parametrize("masks", [PRESENCE, (PRESENCE,), (PRESENCE[:, :1], PRESENCE), None])
def test_a_schedule_returns_two_masks_of_the_shape_of_the_presence(masks):
    """A mask of one column would be taken for all of them."""
    with pytest.raises(ValueError, match="two tensors of booleans, sources and targets"):
        check_schedule(masks, PRESENCE)


def test_mean_over_unmasked_elements_times_features():
    mask = torch.tensor([[True, True, True, True], [True, False, False, False], [False] * 4])
    total = torch.tensor([8.0, 2.0, 0.0])
    assert mean_unmasked(total, None, 4) is total
    assert mean_unmasked(total, mask, 4).tolist() == [8.0, 8.0, 0.0]
