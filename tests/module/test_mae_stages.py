"""CrossAttentionMAEModule: what stages start from, what they weigh, and what validation leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mumask.module import ModalitySpec
from mumask.module._cross_attention_mae import CrossAttentionMAEModule

SIZES = {"rna": 30, "protein": 7}
N = 12


@pytest.fixture
def module():
    """Two modalities; the second batch lacks the last ten genes."""
    torch.manual_seed(0)
    panel = {name: np.ones((2, size), dtype=bool) for name, size in SIZES.items()}
    panel["rna"][1, 20:] = False
    specs = {
        name: ModalitySpec(
            n_features=size,
            likelihood="nb",
            profile=np.full(size, 1 / size),
            total=100.0,
            panel=panel[name],
            held_out=np.zeros(size, dtype=bool),
        )
        for name, size in SIZES.items()
    }
    small = {"n_embed": 16, "n_latent": 6, "n_heads": 2, "token_size": {"rna": 1, "protein": 1}}
    return CrossAttentionMAEModule(specs, n_categories=[2], n_classes=3, **small)


@pytest.fixture
def tensors():
    """Cells that have both; every third is of the batch with fewer genes."""
    torch.manual_seed(1)
    return {
        "presence": torch.ones(N, 2, dtype=torch.bool),
        "batch": (torch.arange(N) % 3 == 0).long()[:, None],
        "labels": torch.arange(N).remainder(3)[:, None],
        **{f"X_{name}": torch.poisson(torch.rand(N, size) * 5) for name, size in SIZES.items()},
    }


def test_a_modality_counts_by_its_weight(module, tensors):
    """In the loss, and cell by cell in what is reported of it."""

    def loss_at(rna: float, protein: float):
        module.modality_weights = {"rna": rna, "protein": protein}
        torch.manual_seed(2)
        return module(tensors)[2]

    rna, protein, both = loss_at(1.0, 0.0), loss_at(0.0, 1.0), loss_at(3.0, 0.5)
    assert torch.isclose(both.loss, 3 * rna.loss + 0.5 * protein.loss)
    for name, alone, weight in (("rna", rna, 3.0), ("protein", protein, 0.5)):
        by_cell = alone.reconstruction_loss[name]
        assert torch.allclose(both.reconstruction_loss[name], weight * by_cell)


def test_errors_are_those_of_the_targets(module, tensors):
    out = module.eval().inference(tensors)
    hidden = module.generative(**module._get_generative_input(tensors, out))["hidden"]
    target = tensors["presence"].clone()
    every = module.reconstruction(tensors, hidden, target)
    target[::2, 0] = False
    some = module.reconstruction(tensors, hidden, target)
    assert torch.equal(some["rna"], every["rna"] * target[:, 0]) and (every["rna"] > 0).all()
    assert torch.equal(some["protein"], every["protein"])


def test_a_total_may_be_that_of_some_features(module, tensors):
    """All features are then expected at the depth that it stands for."""
    module.eval().fit_inputs(lambda: [tensors])
    out = module.inference(tensors)
    hidden = module.generative(**module._get_generative_input(tensors, out))["hidden"]
    total, mask = torch.full((N, 1), 60.0), (torch.arange(30) < 12).expand(N, -1)
    share = module.encoders["rna"].norm.base[:12].sum()
    assert 0.1 < share < 0.9
    values = module.expected(hidden, "rna", total, mask)
    assert torch.allclose(values, module.expected(hidden, "rna", total / share), rtol=1e-4)


def test_validation_leaves_the_average_of_the_head_alone(module, tensors):
    module.set_stage("finetune", tensors["presence"])
    module.eval().validating = True
    before = {name: value.clone() for name, value in module.classifier.state_dict().items()}
    assert module(tensors)[2].loss > 0
    for name, value in module.classifier.state_dict().items():
        assert torch.equal(value, before[name]), name
    module.train().validating = False
    module(tensors)
    assert module.classifier.n_updates == 1


def test_the_start_does_not_depend_on_what_was_not_measured(module, tensors):
    """Constants of the inputs and principal axes."""
    unmeasured = tensors["X_rna"].clone()
    unmeasured[::3, 20:] += 50
    states = []
    for batch in (tensors, {**tensors, "X_rna": unmeasured}):
        module.fit_inputs(lambda batch=batch: [batch])
        module.start_from_axes(lambda batch=batch: [batch])
        starts = ("norm", "tokens.value")
        state = module.encoders["rna"].state_dict().items()
        states.append({n: v.clone() for n, v in state if n.startswith(starts)})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_encoders_are_fine_tuned_more_slowly_than_the_head(module, tensors):
    trained = module.set_stage("finetune", tensors["presence"])
    head, rest = module.parameter_groups(1e-3)
    assert head["lr"] == 1e-3 and rest["lr"] < 0.1 * head["lr"]
    own = {id(parameter) for parameter in module.classifier.parameters()}
    assert all(id(parameter) in own for parameter in head["params"])
    grouped = [id(parameter) for group in (head, rest) for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, trained))


def test_attention_over_another_cell_is_over_what_that_one_measured(module, tensors):
    """Over the genes of its panel, which share what even attention would give to each."""
    order = torch.arange(N).roll(1)
    short = tensors["batch"][:, 0] == 1
    with torch.no_grad():
        weights = module.eval().cross_attention(tensors, "protein", "rna", [order])
        for each, attended in zip(weights, (torch.arange(N), order), strict=True):
            measured = ~each.isnan().all(dim=1)
            assert measured.sum(1).tolist() == torch.where(short[attended], 20, 30).tolist()
            assert torch.allclose(each.nansum(2), measured.sum(1, keepdim=True).float(), atol=1e-4)


# Which directions the views of cells weigh


def calibrated(presence: torch.Tensor):
    """A module of three modalities after calibration on random cells."""
    torch.manual_seed(0)
    names, n = ("rna", "protein", "atac"), len(presence)
    spec = ModalitySpec(
        n_features=8,
        likelihood="nb",
        profile=np.full(8, 1 / 8),
        total=100.0,
        panel=np.ones((1, 8), dtype=bool),
        held_out=np.zeros(8, dtype=bool),
    )
    module = CrossAttentionMAEModule(
        dict.fromkeys(names, spec), n_embed=8, n_latent=6, n_heads=2, max_tokens=4
    )
    tensors = {"presence": presence, "batch": torch.zeros(n, 1, dtype=torch.long)}
    for column, name in enumerate(names):
        tensors[f"X_{name}"] = torch.poisson(torch.full((int(presence[:, column].sum()), 8), 3.0))
    module.eval().calibrate(lambda: [tensors])
    return module


def test_few_cells_that_have_several_views_weigh_no_direction():
    """The covariance of two cells has one direction, to which the embedding shrank."""
    presence = torch.ones(20, 3, dtype=torch.bool)
    presence[2:, 1:] = False
    module = calibrated(presence)
    assert torch.equal(module.agreed, torch.eye(6))


def test_directions_of_a_modality_without_other_views_stay():
    """Cells without it tell nothing of how its own differ."""
    presence = torch.zeros(20, 3, dtype=torch.bool)
    presence[:15, :2], presence[12:15, 1], presence[15:, 2] = True, False, True
    module = calibrated(presence)
    alone = module.fusion.slices[module.names[2]]
    others = torch.ones(6, dtype=torch.bool)
    others[alone] = False
    assert torch.equal(module.agreed[alone], torch.eye(6)[alone])
    assert not torch.equal(module.agreed[others], torch.eye(6)[others])
    assert not module.agreed[others][:, alone].any()
