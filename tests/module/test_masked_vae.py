"""Properties of the module: masks leak nothing, order and company of cells do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

NAMES = ["rna", "protein", "atac"]


def loss_of(module, tensors, seed=0):
    """Loss of a training step with everything as source and target, and its output."""
    module.schedule = lambda presence: (presence, presence)
    module.train()
    torch.manual_seed(seed)
    inference, _, losses = module(tensors)
    return losses.loss, inference, losses


def pick(tensors, cells):
    """The minibatch of some cells, in that order."""
    position = {}
    chosen = {k: v[cells] for k, v in tensors.items() if k in ("presence", "batch", "labels")}
    for m, name in enumerate(NAMES):
        rows = tensors["presence"][:, m].nonzero()[:, 0].tolist()
        position = {cell: row for row, cell in enumerate(rows)}
        at = [position[int(c)] for c in cells if int(c) in position]
        chosen[f"X_{name}"] = tensors[f"X_{name}"][at]
        if f"mask_{name}" in tensors:
            chosen[f"mask_{name}"] = tensors[f"mask_{name}"][at]
    return chosen


def test_order_of_cells_does_not_matter(default_module, minibatch):
    module, (tensors, _) = default_module().eval(), minibatch("count")
    order = torch.randperm(14)
    one = module.inference(tensors, sample=False)["mean"]
    other = module.inference(pick(tensors, order), sample=False)["mean"]
    torch.testing.assert_close(other, one[order])


def test_company_of_cells_does_not_matter(default_module, minibatch):
    module, (tensors, _) = default_module().eval(), minibatch("count")
    together = module.inference(tensors, sample=False)["mean"]
    for cell in range(14):
        alone = module.inference(pick(tensors, torch.tensor([cell])), sample=False)["mean"]
        torch.testing.assert_close(alone[0], together[cell])


def test_order_of_modalities_does_not_matter(default_module, specs, minibatch):
    from mumask.module import MaskedVAEModule

    module, (tensors, _) = default_module(), minibatch("count")
    spec = specs({"rna": "nb", "protein": "nb", "atac": "bernoulli"})
    turned = MaskedVAEModule(
        {m: spec[m] for m in reversed(NAMES)}, n_categories=[2], n_hidden=8, n_latent=3, dropout=0.0
    )
    turned.load_state_dict(module.state_dict())
    other = {**tensors, "presence": tensors["presence"].flip(1)}
    torch.testing.assert_close(loss_of(turned, other)[0], loss_of(module, tensors)[0])


@pytest.mark.parametrize("hidden", [0, 1, 2])
def test_an_absent_modality_equals_one_that_is_no_source(default_module, minibatch, hidden):
    module, (tensors, _) = default_module().eval(), minibatch("count")
    cells = (tensors["presence"].sum(1) > 1).nonzero()[:, 0]
    tensors = pick(tensors, cells)
    source = tensors["presence"].clone()
    source[:, hidden] = False
    masked = module.inference(tensors, source=source, sample=False)["mean"]
    removed = {**tensors, "presence": source}
    removed[f"X_{NAMES[hidden]}"] = tensors[f"X_{NAMES[hidden]}"][:0]
    torch.testing.assert_close(module.inference(removed, sample=False)["mean"], masked)


def test_sources_leave_no_trace_of_others(default_module, minibatch):
    """Values of a modality that is only target change nothing in the latent space."""
    module, (tensors, _) = default_module().eval(), minibatch("count")
    source = tensors["presence"].clone()
    source[:, 1] &= ~source[:, 0]  # protein is a source only without RNA
    before = module.inference(tensors, source=source, sample=False)["mean"]
    tensors["X_protein"] = tensors["X_protein"] * 3 + 1
    after = module.inference(tensors, source=source, sample=False)["mean"]
    same = tensors["presence"][:, 0] | ~tensors["presence"][:, 1]
    assert torch.equal(before[same], after[same])
    assert not torch.isclose(before[~same], after[~same]).all()


def masked_minibatch(minibatch, how):
    """A minibatch with some proteins masked, by panel or by element; rows and columns of those."""
    tensors, _ = minibatch("count")
    panel = np.ones((2, 4), dtype=bool)
    if how == "panel":
        panel[1, 2:] = False
        batch = tensors["batch"][tensors["presence"][:, 1], 0]
        seen = torch.as_tensor(panel)[batch]
    else:
        seen = torch.ones_like(tensors["X_protein"], dtype=torch.bool)
        seen[::2, 1] = seen[1, :2] = False
        tensors["mask_protein"] = seen
    return tensors, {"protein": panel}, seen


@pytest.mark.parametrize("how", ["panel", "element"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "bernoulli", "gaussian"])
def test_masked_elements_change_nothing(specs, minibatch, how, sparse, likelihood):
    from mumask.module import MaskedVAEModule

    tensors, panel, seen = masked_minibatch(minibatch, how)
    kinds = {"rna": "nb", "protein": likelihood, "atac": "bernoulli"}
    torch.manual_seed(1)
    module = MaskedVAEModule(
        specs(kinds, panel), n_categories=[2], n_hidden=8, n_latent=3, dropout=0.0
    )

    def run(x):
        x = x.to_sparse_csr() if sparse else x
        module.zero_grad()
        loss, inference, _ = loss_of(module, {**tensors, "X_protein": x})
        loss.backward()
        return loss, inference["mean"], [p.grad.clone() for p in module.parameters()]

    x = (tensors["X_protein"] > 0).float() if likelihood == "bernoulli" else tensors["X_protein"]
    before = run(x)
    after = run(torch.where(seen, x, 1 - x if likelihood == "bernoulli" else x + 7))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    for one, other in zip(before[2], after[2], strict=True):
        assert torch.equal(one, other)
    changed = run(torch.where(seen, 1 - x if likelihood == "bernoulli" else x + 7, x))
    assert not torch.isclose(before[0], changed[0])


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "bernoulli", "gaussian"])
def test_features_measured_nowhere_get_no_gradient(specs, minibatch, likelihood):
    from mumask.module import MaskedVAEModule

    tensors, _ = minibatch("count")
    if likelihood == "bernoulli":
        tensors["X_protein"] = (tensors["X_protein"] > 0).float()
    panel = {"protein": np.array([[True, True, True, False]] * 2)}
    kinds = {"rna": "nb", "protein": likelihood, "atac": "bernoulli"}
    module = MaskedVAEModule(specs(kinds, panel), n_categories=[2], n_hidden=8, n_latent=3)
    loss_of(module, tensors)[0].backward()
    assert not module.encoder.first["protein"].weight.grad[3].any()
    last = module.decoder.last["protein"].weight.grad.view(-1, 4, 8)
    assert not last[:, 3].any()
    assert last[:, :3].any(dim=-1).all()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "bernoulli", "gaussian"])
def test_what_a_narrow_panel_lacks_is_not_decoded(specs, minibatch, monkeypatch, likelihood):
    """And all else is as if it were: the loss and every gradient, in training and for a query."""
    from mumask.module import MaskedVAEModule
    from mumask.nn import _masks

    tensors, _ = minibatch("count")
    x = tensors["X_rna"]
    x = (x > 0).float() if likelihood == "bernoulli" else x.clamp(max=9)
    tensors["X_rna"] = x.to_sparse_csr()
    panel = {"rna": np.array([[True, False, False, True, False, False], [True] + [False] * 5])}
    kinds = {"rna": likelihood, "protein": "nb", "atac": "bernoulli"}
    torch.manual_seed(2)
    module = MaskedVAEModule(specs(kinds, panel), n_categories=[2], n_hidden=8, n_latent=3)
    decoded, outputs = [], module.decoder.outputs
    monkeypatch.setattr(
        module.decoder, "outputs", lambda *a: decoded.append((a[1], outputs(*a))) or decoded[-1][1]
    )

    def run(narrow):
        monkeypatch.setattr(_masks, "NARROW", narrow)
        decoded.clear()
        module.zero_grad()
        module.query_batches = torch.tensor([True, True])
        refined = module.eval().inference(tensors, sample=False)["mean"]
        module.query_batches = None
        loss = loss_of(module, tensors)[0]
        loss.backward()
        widths = {
            len(layer.weight) // module.likelihoods["rna"].n_heads
            for name, layer in decoded
            if name == "rna"
        }
        return widths, [refined, loss, *(p.grad for p in module.parameters())]

    widths, few = run(0.5)
    assert widths == {2}
    widths, whole = run(0.0)
    assert widths == {6}
    torch.testing.assert_close(few, whole, rtol=1e-4, atol=1e-6)


def test_wide_modalities_are_decoded_in_blocks(default_module, monkeypatch):
    from mumask.module import _decoding

    module, hidden = default_module().eval(), torch.randn(14, 8)
    total, mask = torch.rand(14, 1) * 50, torch.rand(14, 6) < 0.7
    for part in (None, mask):
        whole = module.expected(hidden, "rna", total, part)
        monkeypatch.setattr(_decoding, "BLOCK", 20)  # three cells at a time
        blocks = module.expected(hidden, "rna", total, part, torch.tensor([4, 1]))
        monkeypatch.undo()
        torch.testing.assert_close(blocks, whole[:, [4, 1]])


def test_mixed_precision_leaves_the_unit_of_real_values_alone(specs, minibatch):
    """Values of 1,000 with a spread of 1 cost what the same values around 0 cost."""
    from mumask.module import MaskedVAEModule

    spec = specs(dict.fromkeys(NAMES, "gaussian"))
    tensors, _ = minibatch("real")
    costs = []
    for shift in (0.0, 1000.0):
        torch.manual_seed(0)
        module = MaskedVAEModule(spec, n_categories=[2], n_hidden=8, n_latent=3, dropout=0.0)
        moved = {k: x + shift if k.startswith("X_") else x for k, x in tensors.items()}
        module.fit_inputs([tensors])
        for transform in module.transforms.values():
            transform.center += shift
        with torch.autocast("cpu", torch.bfloat16):
            costs.append(loss_of(module, moved)[2].reconstruction_loss["rna"])
    torch.testing.assert_close(costs[1], costs[0], rtol=0.01, atol=0.01)


def test_held_out_features_reach_no_encoder(default_module, minibatch):
    held_out = {"rna": np.array([False, True] + [False] * 4)}
    module, (tensors, _) = default_module(held_out=held_out), minibatch("count")
    loss, inference, _ = loss_of(module, tensors)
    loss.backward()
    assert not module.encoder.first["rna"].weight.grad[1].any()
    assert module.decoder.last["rna"].weight.grad[1].any()
    tensors["X_rna"] = tensors["X_rna"].clone()
    tensors["X_rna"][:, 1] += 5
    changed, other, _ = loss_of(module, tensors)
    assert torch.equal(inference["mean"], other["mean"])
    assert not torch.isclose(loss, changed)


def test_the_divergence_counts_by_its_weight(default_module, minibatch):
    module, (tensors, _) = default_module(), minibatch("count")
    inference, generative, _ = module(tensors)
    none, half, full = (
        module.loss(tensors, inference, generative, kl_weight=weight) for weight in (0.0, 0.5, 1.0)
    )
    assert torch.isclose(full.loss - none.loss, full.kl_local["kl_z"].mean(), rtol=1e-4)
    assert torch.isclose(half.loss, (full.loss + none.loss) / 2)


def test_held_out_features_have_no_part_in_the_scale_of_the_others(default_module, minibatch):
    held_out = {"rna": np.array([False, True] + [False] * 4)}
    module, (tensors, _) = default_module(held_out=held_out), minibatch("count")
    changed = {**tensors, "X_rna": tensors["X_rna"].clone()}
    changed["X_rna"][:, 1] += 5
    inputs = []
    for batch in (tensors, changed):
        module.fit_inputs([batch])
        inputs.append(module.transforms["rna"](batch["X_rna"], module.visible(batch, "rna")))
    for one, other in zip(*inputs, strict=True):
        assert torch.equal(one, other)


WIDE_AND_NARROW = np.array([[True] * 6, [True] * 3 + [False] * 3])


def test_expected_totals_are_those_of_full_panels(default_module, minibatch, monkeypatch):
    """Half of the features of an average cell have half of its total."""
    module, (tensors, _) = default_module(panel={"rna": WIDE_AND_NARROW}), minibatch("count")
    seen, hidden = {}, torch.randn(14, 8)
    for name, head in module.totals.items():
        rows = module.rows_of(tensors, name)
        assert len(rows) < 14

        def spy(of_rows, total, name=name, rows=rows):
            assert torch.equal(of_rows, hidden[rows])
            return seen.setdefault(name, total).sum()

        monkeypatch.setattr(head, "nll", spy)
    module.totals_loss(tensors, hidden)
    x, narrow = tensors["X_rna"], tensors["batch"][tensors["presence"][:, 0], 0] == 1
    expected = torch.where(narrow, 2 * x[:, :3].sum(1), x.sum(1))
    assert torch.allclose(seen["rna"], expected[:, None])
    assert torch.equal(seen["protein"], tensors["X_protein"].sum(1, keepdim=True))


def test_cells_of_a_wide_panel_train_as_if_on_the_narrow_one(default_module, minibatch):
    """Some, in training only; they are held to all that they measured."""
    module, (tensors, _) = default_module(panel={"rna": WIDE_AND_NARROW}), minibatch("count")
    rows = module.rows_of(tensors, "rna")
    wide = tensors["batch"][rows, 0] == 0
    visible, source = module.visible(tensors, "rna"), tensors["presence"]
    module.train()
    torch.manual_seed(0)
    seen = torch.stack([module.seen(tensors, "rna", source) for _ in range(50)])
    assert (seen[:, ~wide] == visible[~wide]).all()
    narrowed = (seen[:, wide] == torch.tensor(WIDE_AND_NARROW[1])).all(dim=2)
    assert 0.3 < narrowed.float().mean() < 0.7
    assert (seen[:, wide].all(dim=2) | narrowed).all()
    assert module.seen(tensors, "protein", source) is None
    weight = module.decoder.last["rna"].weight
    module(tensors)[2].loss.backward()
    assert (weight.grad[3:] != 0).any(dim=1).all()

    assert torch.equal(module.eval().seen(tensors, "rna", source), visible)
    own = default_module(panel={"rna": WIDE_AND_NARROW}, input_panel="own").train()
    assert torch.equal(own.seen(tensors, "rna", source), visible)
    common = default_module(panel={"rna": WIDE_AND_NARROW}, input_panel="common")
    for module in (common.train(), common.eval()):
        assert torch.equal(
            module.seen(tensors, "rna", source), visible & torch.tensor(WIDE_AND_NARROW[1])
        )


def test_a_linear_decoder_trains_on_parts_of_a_wide_modality(
    default_module, minibatch, monkeypatch
):
    """Of cells that are encoded from it alone; never on parts of a narrow one, nor outside of training."""
    module, (tensors, _) = default_module(linear_decoder=True), minibatch("count")
    source = tensors["presence"]
    rows = module.rows_of(tensors, "rna")
    alone = source[rows].sum(dim=1) == 1
    assert 0 < alone.sum() < len(rows)
    assert module.train().seen(tensors, "rna", source) is None  # it is narrow
    monkeypatch.setattr("mumask.module._query_inference.MEASURED_WHOLE", 5)
    torch.manual_seed(0)
    seen = [module.seen(tensors, "rna", source) for _ in range(200)]
    drawn = [one for one in seen if one is not None]
    assert 0.15 < len(drawn) / len(seen) < 0.35
    for one in drawn:
        assert one[~alone].all()
        assert (one[alone] == one[alone][0]).all()
    share = torch.stack([one[alone][0] for one in drawn]).float().mean()
    assert 0.4 < share < 0.65
    assert module.seen(tensors, "protein", source) is None
    assert module.eval().seen(tensors, "rna", source) is None
    module.train().query_batches = torch.ones(2, dtype=torch.bool)
    assert all(module.seen(tensors, "rna", source) is None for _ in range(50))
    assert default_module().train().seen(tensors, "rna", source) is None


def test_every_parameter_gets_a_gradient(default_module, minibatch):
    module = default_module(
        arithmetic="subtract", prior="clusters", n_classes=3, n_layers=2, dropout=0.1
    )
    tensors, _ = minibatch("count")
    module.train()
    module(tensors)[2].loss.backward()
    without = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("cells", [[0], [3], [0, 1, 2], list(range(14))])
def test_losses_have_one_entry_per_cell(default_module, minibatch, cells):
    module, (tensors, _) = default_module(n_classes=3), minibatch("count")
    tensors = pick(tensors, torch.tensor(cells))
    loss, _, losses = loss_of(module, tensors)
    assert loss.isfinite()
    assert losses.n_obs_minibatch == len(cells)
    for m, name in enumerate(NAMES):
        values = losses.reconstruction_loss[name]
        assert values.shape == (len(cells),)
        assert not values[~tensors["presence"][:, m]].any()
    loss.backward()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "bernoulli", "gaussian"])
def test_a_row_of_which_nothing_was_measured(specs, minibatch, likelihood):
    """Finite loss and gradient, and the same as without that row."""
    from mumask.module import MaskedVAEModule

    kinds = {"rna": "nb", "protein": likelihood, "atac": "bernoulli"}
    module = MaskedVAEModule(specs(kinds), n_categories=[2], n_hidden=8, n_latent=3, dropout=0.0)
    tensors, _ = minibatch("count")
    if likelihood == "bernoulli":
        tensors["X_protein"] = (tensors["X_protein"] > 0).float()
    tensors["mask_protein"] = torch.ones_like(tensors["X_protein"], dtype=torch.bool)
    tensors["mask_protein"][0] = False
    loss, _, losses = loss_of(module, tensors)
    loss.backward()
    assert loss.isfinite()
    assert losses.reconstruction_loss["protein"][tensors["presence"][:, 1]][0] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_users_masks(default_module, minibatch):
    """Masks of the user act in training only, on the side they are for."""
    module, (tensors, _) = default_module(), minibatch("count")
    plain, inference, _ = loss_of(module, tensors)

    def first_gene(x):
        return torch.arange(x.shape[1]).ne(0).expand_as(x)

    module.output_masks = {"rna": first_gene}
    masked, same, _ = loss_of(module, tensors)
    assert torch.equal(inference["mean"], same["mean"])
    assert not torch.isclose(plain, masked)
    module.output_masks, module.input_masks = {}, {"rna": first_gene}
    assert not torch.equal(inference["mean"], loss_of(module, tensors)[1]["mean"])
    module.eval()
    module.inference(tensors)
    module.train()
    module.input_masks = {"rna": lambda x: x}
    with pytest.raises(ValueError, match="'rna' has to return booleans"):
        module.inference(tensors)
