"""CrossAttentionMAEModule: masks, mosaics, gradients of every stage, training with scvi-tools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scvi.train import Trainer, TrainingPlan
from torch.utils.data import DataLoader

from mumask.module._cross_attention_mae import PRESETS, CrossAttentionMAEModule
from mumask.module._modality_spec import ModalitySpec

SIZES = {"rna": 30, "protein": 7, "atac": 20}
LIKELIHOODS = {"rna": "nb", "protein": "nb", "atac": "bernoulli"}
SMALL = {"n_embed": 16, "n_latent": 6, "n_heads": 2, "max_tokens": 8}
MOSAIC = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1]] * 4, dtype=torch.bool)


def make(names=("rna", "protein", "atac"), panel=None, **kwargs):
    torch.manual_seed(0)
    specs = {
        name: ModalitySpec(
            n_features=SIZES[name],
            likelihood=LIKELIHOODS[name],
            profile=np.full(SIZES[name], 1 / SIZES[name]),
            total=100.0,
            panel=np.ones((2, SIZES[name]), dtype=bool)
            if panel is None or name != "rna"
            else panel,
            held_out=np.zeros(SIZES[name], dtype=bool),
        )
        for name in names
    }
    options = {"n_categories": [2], "n_classes": 3, **SMALL, **kwargs}
    return CrossAttentionMAEModule(specs, **options)


def batch_of(presence=MOSAIC, names=("rna", "protein", "atac"), seed=0, sparse=()):
    generator = torch.Generator().manual_seed(seed)
    n = len(presence)
    tensors = {
        "presence": presence[:, : len(names)],
        "batch": torch.randint(0, 2, (n, 1), generator=generator),
        "labels": torch.randint(0, 4, (n, 1), generator=generator),
    }
    for column, name in enumerate(names):
        x = torch.poisson(torch.rand(n, SIZES[name], generator=generator) * 5, generator=generator)
        x = x.clamp(max=1) if LIKELIHOODS[name] == "bernoulli" else x
        x = x[presence[:, column]]
        tensors[f"X_{name}"] = x.to_sparse_csr() if name in sparse else x
    return tensors


def losses(module, tensors):
    torch.manual_seed(1)
    inference, generative, loss = module(tensors)
    return inference, generative, loss


def test_loss_output_suits_scvi_tools():
    module, tensors = make(), batch_of()
    _, _, loss = losses(module, tensors)
    assert loss.n_obs_minibatch == 20
    for column, name in enumerate(SIZES):
        by_cell = loss.reconstruction_loss[name]
        assert by_cell.shape == (20,)
        assert (by_cell[~MOSAIC[:, column]] == 0).all()
        assert (by_cell[MOSAIC[:, column]] > 0).all()
    assert loss.loss.isfinite()


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("preset", [None, "scmmae"])
@pytest.mark.parametrize("names", [("rna",), ("rna", "protein"), ("rna", "protein", "atac")])
@pytest.mark.parametrize("present", ["mosaic", "complete", "first"])
def test_every_parameter_of_every_stage_learns(stage, preset, names, present):
    options = {**PRESETS[preset], **SMALL} if preset else {}
    module = make(names, **options)
    presence = {
        "mosaic": MOSAIC[MOSAIC[:, : len(names)].any(1)],
        "complete": torch.ones(20, 3, dtype=torch.bool),
        "first": torch.tensor([True, False, False]).repeat(20, 1),
    }[present]
    tensors = batch_of(presence, names)
    trained = module.set_stage(stage, tensors["presence"])
    assert trained
    touched = {id(p): False for p in trained}
    for seed in range(6):  # what is hidden is random
        module.zero_grad()
        torch.manual_seed(seed)
        module(tensors)[2].loss.backward()
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                assert id(parameter) in touched, name
                touched[id(parameter)] |= bool(parameter.grad.abs().max() > 0)
    missing = [n for n, p in module.named_parameters() if touched.get(id(p)) is False]
    assert not missing


def test_stages_use_what_they_should():
    module = make()
    full = torch.ones(2, 3, dtype=torch.bool)
    module.set_stage("finetune", full)
    assert not any(p.requires_grad for p in module.decoders.parameters())
    assert all(p.requires_grad for p in module.classifier.network.parameters())
    assert not any(p.requires_grad for p in module.classifier.average.parameters())
    module.set_stage("pretrain", full)
    assert not any(p.requires_grad for p in module.classifier.parameters())
    with pytest.raises(ValueError, match="n_classes"):
        make(n_classes=0).set_stage("finetune", full)


def test_absent_values_and_other_cells_have_no_influence():
    module = make().eval()
    tensors = batch_of()
    z = module.inference(tensors)["z"]
    source = torch.tensor([True, False, False]).repeat(20, 1)
    changed = {**tensors, "X_protein": tensors["X_protein"] + 50}
    a, b = (module.inference(t, source=source)["z"] for t in (tensors, changed))
    assert torch.equal(a, b)
    assert not torch.allclose(z[0], module.inference(changed)["z"][0])
    order = torch.randperm(20)
    shuffled = {k: tensors[k][order] for k in ("presence", "batch", "labels")}
    for column, name in enumerate(SIZES):
        row = torch.full((20,), -1)
        row[MOSAIC[:, column]] = torch.arange(int(MOSAIC[:, column].sum()))
        shuffled[f"X_{name}"] = tensors[f"X_{name}"][row[order][row[order] >= 0]]
    assert torch.allclose(module.inference(shuffled)["z"], z[order], atol=1e-5)


def test_a_hidden_value_has_no_influence_on_any_prediction():
    module = make(modality_dropout=0.5)
    module.train()
    tensors = batch_of()
    torch.manual_seed(3)
    inference, generative, _ = module(tensors)
    for name in SIZES:
        tokens = module.encoders[name].tokens
        hidden = inference["masks"][name].is_hidden()
        features = tokens.ungroup(hidden[:, :, None].expand(-1, -1, tokens.token_size))
        x = tensors[f"X_{name}"]
        changed = {**tensors, f"X_{name}": torch.where(features, x + 30, x)}
        torch.manual_seed(3)
        again, predicted, _ = module(changed)
        assert torch.equal(again["masks"][name].hidden, inference["masks"][name].hidden)
        assert torch.equal(again["z"], inference["z"])
        for other in SIZES:
            assert torch.equal(predicted["predictions"][other], generative["predictions"][other])


@pytest.mark.parametrize("mask_ratio", [0.0, 0.3])
def test_a_hidden_modality_is_predicted_as_users_get_it(mask_ratio):
    """All of it, each value from the cell alone; of a modality that is shown only hidden tokens."""
    panel = np.ones((2, 30), dtype=bool)
    panel[0, :12] = False
    module = make(modality_dropout=0.5, mask_ratio=mask_ratio, input_panel="own", panel=panel)
    module.train()
    tensors = batch_of()
    inference, generative, _ = module(tensors)
    assert (MOSAIC & ~inference["source"]).any(dim=0).all()
    for column, name in enumerate(SIZES):
        rows, coder = module.rows_of(tensors, name), module.encoders[name]
        away = ~inference["source"][rows, column]
        mask, measured = inference["masks"][name], module.measured(tensors, name)
        there = mask.seen | mask.is_hidden()
        if measured is not None:
            assert torch.equal(there, coder.tokens.group(measured).any(2))
        assert torch.equal(mask.is_hidden()[away], there[away])
        shown = mask.is_hidden()[~away].sum(dim=1)
        assert (shown <= 1 + mask_ratio * there.shape[1]).all()
        assert shown.any() == (mask_ratio > 0)
        with torch.no_grad():
            decoded = module.decode({**generative["hidden"]}, name)[rows]
        predicted = generative["predictions"][name]
        whole = away & there.all(dim=1)
        values = coder.norm.destandardise(coder.tokens.ungroup(predicted))[whole]
        torch.testing.assert_close(values, decoded[whole], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["panel", "layer"])
def test_unmeasured_features_are_neither_seen_nor_scored(how):
    panel = np.ones((2, 30), dtype=bool)
    tensors = batch_of()
    rows = MOSAIC[:, 0]
    if how == "panel":
        panel[0, :12] = False
        measured = torch.as_tensor(panel)[tensors["batch"][rows, 0]]
    else:
        measured = torch.rand(int(rows.sum()), 30) < 0.6
        tensors["mask_rna"] = measured
    module = make(panel=panel if how == "panel" else None)
    x = tensors["X_rna"]
    changed = {**tensors, "X_rna": torch.where(measured, x, x + 77)}
    (a, _, loss_a), (b, _, loss_b) = losses(module, tensors), losses(module, changed)
    assert torch.equal(a["z"], b["z"])
    assert torch.equal(loss_a.loss, loss_b.loss)


def test_calibration_balances_the_modalities_and_is_undone_for_decoders():
    module, tensors = make(), batch_of()
    module.calibrate(lambda: [tensors])
    assert module.training  # as before
    out = module.eval().inference(tensors)
    assert module.training is False
    for part in out["parts"].values():
        assert torch.allclose(part.mean(0), torch.zeros(2), atol=1e-4)
        assert torch.isclose(part.var(0, correction=0).sum(), torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(module.to_decoder(out["corrected"], {}), out["z"], atol=1e-5)


def test_calibration_brings_the_views_of_a_cell_together():
    """Beside the distances between cells, in those views that cells of the data have."""
    module, tensors = make().eval(), batch_of()
    module.calibrate(lambda: [tensors])
    both = (tensors["presence"].sum(1) > 1).nonzero().squeeze(1)
    known = {tuple(view) for view in tensors["presence"].tolist()}
    views = []
    for view in known:
        out = module.inference(tensors, source=torch.tensor(view))
        views.append((module.standardised(out["z"]), out["corrected"]))
    apart = []
    for seen in zip(*views, strict=True):
        seen = torch.stack(seen)[:, both]
        apart.append(seen.var(0).sum() / seen.mean(0).var(0).sum())
    assert apart[1] < 0.8 * apart[0]


def test_calibration_of_cells_that_have_the_same_weighs_no_direction():
    module, tensors = make().eval(), batch_of(torch.ones(20, 3, dtype=torch.bool))
    module.calibrate(lambda: [tensors])
    assert torch.equal(module.agreed, torch.eye(6))


@pytest.mark.parametrize("context", ["cell", "tokens"])
def test_decoding_any_modality_of_any_cell(context):
    module = make(decoder_context=context).eval()
    tensors = batch_of(sparse=("rna", "atac"))
    module.fit_inputs(lambda: [tensors])
    out = module.inference(tensors)
    hidden = module.generative(tensors, out["z"], module.covariates(tensors))["hidden"]
    total = torch.full((20, 1), 200.0)
    for name, size in SIZES.items():
        values = module.expected(hidden, name, total)
        assert values.shape == (20, size)
        assert values.isfinite().all()
        assert (values >= 0).all()
    assert torch.allclose(module.expected(hidden, "rna", total).sum(1), total[:, 0], rtol=1e-3)


def test_labels_of_unlabelled_cells_do_not_count():
    module, tensors = make(), batch_of()
    module.set_stage("finetune", tensors["presence"])
    tensors["labels"][:5] = 3
    _, _, loss = losses(module, tensors)
    assert loss.logits.shape[0] == int((tensors["labels"] < 3).sum())
    tensors["labels"][:] = 3
    _, _, loss = losses(module, tensors)
    assert loss.loss.isfinite()
    loss.loss.backward()


def test_head_learns_from_fixed_embeddings_whatever_the_stage():
    module, tensors = make(head={"consistency": 1.0}), batch_of()
    module.fit_inputs(lambda: [tensors])
    module.start_from_axes(lambda: [tensors])
    module.calibrate(lambda: [tensors])
    module.set_stage("pretrain", tensors["presence"])
    before = {n: p.clone() for n, p in module.named_parameters() if "classifier" not in n}
    labels = tensors["labels"][:, 0]
    with torch.no_grad():
        out = module.eval().inference(tensors)
    module.fit_head(out["corrected"], out["source"], labels, n_steps=300)

    out = module.eval().inference(tensors)
    assert out["embedding"].shape == (20, 256)
    known = labels < 3
    assert (out["logits"].argmax(1) == labels)[known].float().mean() > 0.7
    for name, parameter in module.named_parameters():
        assert name not in before or torch.equal(parameter, before[name]), name


def test_attention_weights():
    """Even attention is 1, whatever other keys there are; pairing cells anew changes weights."""
    module = make().eval()
    tensors = batch_of(MOSAIC[MOSAIC[:, 0] & MOSAIC[:, 1]])
    n_cells = len(tensors["presence"])
    order = torch.arange(n_cells).flip(0)
    with torch.no_grad():
        weights, again, flipped = module.cross_attention(
            tensors, "rna", "protein", [torch.arange(n_cells), order]
        )
        atac = next(module.cross_attention(tensors, "rna", "atac"))
    assert weights.shape == (n_cells, module.encoders["rna"].tokens.n_tokens, 7)
    assert torch.equal(weights, again)
    assert not torch.allclose(weights, flipped)
    n_keys = torch.where(tensors["presence"][:, 2], 14, 7)[:, None]
    assert torch.allclose((weights.sum(-1) + atac.sum(-1)) / n_keys, torch.ones(1), atol=1e-5)


def test_attention_of_unmeasured_tokens_is_missing():
    panel = np.ones((2, 30), dtype=bool)
    tokens = make().encoders["rna"].tokens
    panel[1, tokens.members[2][tokens.exists[2]].numpy()] = False
    module = make(panel=panel).eval()
    tensors = batch_of(MOSAIC[MOSAIC[:, 0] & MOSAIC[:, 1]])
    with torch.no_grad():
        weights = next(module.cross_attention(tensors, "rna", "protein"))
        reverse = next(module.cross_attention(tensors, "protein", "rna"))
    short = tensors["batch"][:, 0] == 1
    assert weights[short, 2].isnan().all() and reverse[short][:, :, 2].isnan().all()
    assert not weights[~short].isnan().any() and not weights[short, 3:].isnan().any()


def test_preset_has_the_sizes_of_the_paper():
    module = make(("rna", "protein"), **PRESETS["scmmae"])
    assert len(module.encoders["rna"].blocks) == 6
    assert len(module.decoders["rna"].blocks) == 4
    assert module.encoders["rna"].blocks[0].attention.n_heads == 2
    assert module.encoders["rna"].tokens.value.shape[-1] == 128
    assert module.encoders["protein"].tokens.token_size == 1


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_scvi_training_plan(stage, tmp_path):
    module, tensors = make(), batch_of()
    module.fit_inputs(lambda: [tensors])
    module.start_from_axes(lambda: [tensors])
    module.set_stage(stage, tensors["presence"])
    plan = TrainingPlan(module, lr=3e-3, eps=1e-8)
    loader = DataLoader([tensors] * 5, batch_size=None)
    trainer = Trainer(
        max_epochs=12,
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
    )
    plan.n_obs_training = 100
    before = {n: p.clone() for n, p in module.named_parameters() if not p.requires_grad}
    start = float(losses(module, tensors)[2].loss)
    trainer.fit(plan, loader)
    assert float(losses(module.train(), tensors)[2].loss) < 0.95 * start
    for name, parameter in module.named_parameters():
        if "classifier.average" not in name:
            assert name not in before or torch.equal(parameter, before[name]), name


def test_saved_weights_reproduce_the_embedding():
    module, tensors = make().eval(), batch_of()
    module.fit_inputs(lambda: [tensors])
    other = make(seed=5).eval()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.inference(tensors)["z"], module.inference(tensors)["z"])


def test_cells_are_seen_through_random_panels():
    """Encoded from a random panel, held to all that they measured; outside of training to nothing."""
    panels = np.ones((2, 30), dtype=bool)
    panels[1, 12:] = False
    tensors = batch_of()
    wide = tensors["batch"][MOSAIC[:, 0], 0] == 0
    module = make(panel=panels).train()
    inference, _, loss = losses(module, tensors)
    seen = inference["seen"]
    assert set(seen) == {"rna"}
    everything = seen["rna"].all(dim=1)
    assert everything[wide].any() and not everything[wide].all()
    assert torch.equal(
        seen["rna"][~everything], torch.tensor(panels[[1]]).expand(sum(~everything), -1)
    )

    # A wide cell seen through the narrow panel: what it does not show changes the loss alone.
    narrowed = MOSAIC[:, 0].nonzero().squeeze(1)[wide & ~everything]
    changed = dict(tensors, X_rna=tensors["X_rna"].clone())
    changed["X_rna"][wide & ~everything, 12:] += 3
    again, _, other = losses(module, changed)
    assert torch.equal(again["z"][narrowed], inference["z"][narrowed])
    before, after = loss.reconstruction_loss["rna"], other.reconstruction_loss["rna"]
    assert (before[narrowed] != after[narrowed]).all()

    module.set_stage("finetune", tensors["presence"])
    assert module.inference(tensors)["seen"] == {}
    module.set_stage("pretrain", tensors["presence"])
    assert module.eval().inference(tensors)["seen"] == {}
    assert make(panel=panels, input_panel="own").train().inference(tensors)["seen"] == {}
