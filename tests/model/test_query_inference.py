"""Cells of a query: what their panel lacks is filled in, what the encoder leaves over is made up for."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.datasets import simulate_mosaic
from mumask.module._mosaic_batch import MosaicBatch
from mumask.nn import InputTransform

BATCHES = {"whole": ("rna", "protein"), "short": ("rna",)}


@pytest.fixture(scope="module", params=[MaskedVAE, CrossAttentionMAE])
def reference(request):
    """Trained on two batches, one of which lacks ten genes; and cells that it never saw."""
    scvi.settings.seed = 0
    sizes = {"rna": 400, "protein": 8}
    mdata = simulate_mosaic(600, BATCHES, sizes, n_latent=3, batch_strength=0.3, seed=4)
    mdata.obs["batch"] = mdata.obs["batch"].astype(str)
    first = np.arange(mdata.n_obs) % 3 > 0
    known, others = mdata[first].copy(), mdata[~first].copy()
    panels = {"rna": {"short": list(mdata["rna"].var_names[:390])}}
    request.param.setup_mudata(known, batch_key="batch", panels=panels)
    small = {"n_embed": 32, "n_encoder_layers": 1} if request.param is CrossAttentionMAE else {}
    model = request.param(known, n_latent=10, **small)
    model.train(max_epochs=25, enable_progress_bar=False)
    return model, others


@pytest.fixture
def as_measured(monkeypatch):
    """Fill in nothing from here on."""

    def stop():
        monkeypatch.setattr(MosaicBatch, "what_is_lacking", lambda self, tensors: {})

    return stop


def with_genes(others, genes, batch="new") -> md.MuData:
    rna = others["rna"][:, genes].copy()
    rna = rna[np.asarray(rna.X.sum(axis=1)).ravel() > 0].copy()
    query = md.MuData({"rna": rna})
    query.obs["batch"] = batch
    return query


def mapped(model, query):
    return type(model).load_query_data(query, model)


def encoded(model, query) -> np.ndarray:
    """The embedding before refinement, which makes up for a part of what is missing as well."""
    query = mapped(model, query)
    query.module.refine_steps = 0
    return query.get_latent_representation()


def off(model, query, others) -> float:
    """Distance of the query's embedding from the one that all genes give, relative to its spread."""
    whole = with_genes(others[query.obs_names].copy(), slice(None))
    target, found = encoded(model, whole), encoded(model, query)
    found = found[query.obs_names.get_indexer(whole.obs_names)]
    return np.linalg.norm(found - target) / np.linalg.norm(target - target.mean(axis=0))


def test_cells_come_closer_to_where_all_genes_put_them(reference, as_measured):
    model, others = reference
    query = with_genes(others, slice(0, 250))
    distance = off(model, query, others)
    as_measured()
    assert distance < 0.95 * off(model, query, others)


def test_panels_that_the_training_saw_are_left_alone(reference, as_measured):
    model, others = reference
    cases = [with_genes(others, slice(0, 390)), with_genes(others, slice(None), batch="whole")]
    before = [mapped(model, query).get_latent_representation() for query in cases]
    own = model.get_latent_representation()
    as_measured()
    np.testing.assert_array_equal(model.get_latent_representation(), own)
    for query, z in zip(cases, before, strict=True):
        np.testing.assert_array_equal(mapped(model, query).get_latent_representation(), z)


def test_a_known_batch_with_another_panel(reference, as_measured):
    """The name of the batch is no promise: what counts is the panel."""
    model, others = reference
    named = mapped(model, with_genes(others, slice(0, 200), batch="whole"))
    z = named.get_latent_representation()
    as_measured()
    assert not np.allclose(named.get_latent_representation(), z, atol=1e-3)


def test_cells_of_other_panels_in_the_same_minibatch(reference):
    """Every cell is encoded as it is on its own."""
    model, others = reference
    cells = others["rna"].copy()
    cells = cells[np.asarray(cells.X[:, :200].sum(axis=1)).ravel() > 0][:100].copy()
    cells.X = cells.X.toarray()
    narrow, wide = cells[:50].copy(), cells[50:].copy()
    measured = np.arange(400) < 200
    narrow.X[:, ~measured] = 3  # never to be read
    both = ad.concat([narrow, wide])
    both.varm["measured"] = pd.DataFrame({"narrow": measured, "wide": True}, index=both.var_names)
    query = md.MuData({"rna": both})
    query.obs["batch"] = ["narrow"] * 50 + ["wide"] * 50
    together = mapped(model, query)
    z = together.get_latent_representation()
    np.testing.assert_allclose(together.get_latent_representation(batch_size=7), z, atol=1e-4)
    order = np.random.default_rng(0).permutation(100)
    again = together.get_latent_representation(indices=order)
    np.testing.assert_allclose(again, z[order], atol=1e-4)

    alone = md.MuData({"rna": narrow[:, measured].copy()})
    alone.obs["batch"] = "narrow"
    np.testing.assert_allclose(mapped(model, alone).get_latent_representation(), z[:50], atol=1e-4)


def test_saved_loaded_and_mapped_again(reference, tmp_path):
    model, others = reference
    query = with_genes(others, slice(0, 200))
    first = mapped(model, query)
    z = first.get_latent_representation()
    first.save(tmp_path / "first")
    loaded = type(model).load(tmp_path / "first", query)
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)

    # The panel of the first query is no more known to the encoder than before.
    second = type(model).load_query_data(with_genes(others, slice(0, 200), "later"), loaded)
    np.testing.assert_allclose(second.get_latent_representation(), z, atol=1e-5)


def test_training_a_query_moves_nothing_else(reference):
    model, others = reference
    query = mapped(model, with_genes(others, slice(0, 200)))
    own = model.get_latent_representation()
    query.train(max_epochs=2, enable_progress_bar=False)
    loss = query.history["train_loss"].to_numpy(float)
    assert len(loss) == 2 and np.isfinite(loss).all()
    np.testing.assert_array_equal(query.get_latent_representation(model.adata), own)


def test_attention_is_that_of_what_was_measured():
    mdata = simulate_mosaic(60, {"one": ("rna", "protein")}, n_features={"rna": 40, "protein": 8})
    CrossAttentionMAE.setup_mudata(mdata)
    model = CrossAttentionMAE(mdata, token_size={"rna": 4})
    model.train(max_epochs=1, enable_progress_bar=False)
    rna = mdata["rna"][:, :6].copy()
    rna.X = rna.X.toarray() + 1
    query = md.MuData({"rna": rna, "protein": mdata["protein"].copy()})
    narrow = CrossAttentionMAE.load_query_data(query, model)
    (tensors,) = narrow._minibatches(query, np.arange(query.n_obs), query.n_obs)
    with torch.inference_mode():
        (weights,) = narrow.module.cross_attention(tensors, "protein", "rna")
    members = narrow.module.encoders["rna"].tokens.members
    there = (members < 6).any(dim=1)
    assert there.sum() < len(there)
    assert weights[:, :, ~there].isnan().all()
    assert weights[:, :, there].isfinite().all()


def test_features_held_out_stay_unseen():
    """What the encoder never saw is not filled in."""
    mdata = simulate_mosaic(150, {"one": ("rna", "protein")}, n_features={"rna": 60, "protein": 8})
    MaskedVAE.setup_mudata(mdata)
    model = MaskedVAE(mdata, held_out={"rna": list(mdata["rna"].var_names[30:])})
    model.train(max_epochs=2, enable_progress_bar=False)
    query = md.MuData({"rna": mdata["rna"][:, :30].copy()})  # all that the encoder knows
    narrow = MaskedVAE.load_query_data(query, model)
    assert narrow.module.what_is_lacking(next(iter(narrow._minibatches(query, np.arange(9), 9))))
    first = narrow.module.encoder.first["rna"].weight
    z = narrow.get_latent_representation()
    with torch.no_grad():
        first[30:] = 100.0
    np.testing.assert_array_equal(narrow.get_latent_representation(), z)


def test_values_that_are_missing_are_expected_ones():
    """The transform, against draws of Poisson counts."""
    torch.manual_seed(0)
    profile = torch.tensor([0.1, 0.2, 0.3, 0.35, 0.05])
    transform = InputTransform("count", profile)
    transform.center.copy_(torch.arange(5.0))
    transform.spread.fill_(2.0)
    mask = torch.tensor([[True, True, True, False, False]])
    expected = torch.tensor([[10.0, 20.0, 30.0, 3.5, 0.5]])
    x = torch.tensor([[12.0, 18.0, 30.0, 99.0, 99.0]])
    got, offset = transform.complete(transform(x, mask), x, mask, ~mask, expected)
    assert offset is None
    measured = (torch.log1p(1e4 * x / expected.sum()) - transform.center) / 2
    torch.testing.assert_close(got[:, :3], measured[:, :3])
    drawn = torch.poisson(expected[:, 3:].expand(200_000, -1))
    mean = (torch.log1p(1e4 * drawn / expected.sum()).mean(dim=0) - transform.center[3:]) / 2
    torch.testing.assert_close(got[0, 3:], mean, atol=0.08, rtol=0)
    # A cell that lacks nothing is as it was.
    whole = torch.ones(1, 5, dtype=torch.bool)
    as_before, offset = transform(x, whole)
    got, _ = transform.complete((as_before, offset), x, whole, ~whole, expected)
    torch.testing.assert_close(got, as_before - offset)


# Refinement


@pytest.fixture(scope="module")
def vae():
    """Trained on two batches of three, with ten genes held out; and the cells of the third."""
    scvi.settings.seed = 0
    batches = dict.fromkeys(("one", "two", "new"), ("rna", "protein"))
    sizes = {"rna": 200, "protein": 8}
    mdata = simulate_mosaic(200, batches, sizes, batch_strength=0.3, seed=1)
    mdata.obs["batch"] = mdata.obs["batch"].astype(str)
    new = (mdata.obs["batch"] == "new").to_numpy()
    known, query = mdata[~new].copy(), mdata[new].copy()
    MaskedVAE.setup_mudata(known, batch_key="batch")
    model = MaskedVAE(known, held_out={"rna": list(mdata["rna"].var_names[:10])})
    model.train(max_epochs=20, enable_progress_bar=False)
    return model, query


def test_a_query_is_explained_better_than_the_encoder_does(vae):
    model, cells = vae
    query = mapped(model, cells)
    z, better = query.get_latent_representation(), query.get_reconstruction_error()
    np.testing.assert_array_equal(query.get_latent_representation(), z)
    assert all(weight.grad is None for weight in query.module.parameters())
    query.module.refine_steps = 0
    worse = query.get_reconstruction_error()
    assert all(better[name] < worse[name] for name in ("rna", "protein"))
    assert 0.02 < np.abs(query.get_latent_representation() - z).mean() < 0.5


def test_only_new_batches_are_refined(vae):
    model, cells = vae
    known, renamed = model.adata[:20].copy(), cells.copy()
    renamed.obs["batch"] = "two"
    for data in (known, renamed):
        query, amortised = mapped(model, data), mapped(model, data)
        assert not query.module.query_batches.any()
        amortised.module.refine_steps = 0
        np.testing.assert_array_equal(
            query.get_latent_representation(), amortised.get_latent_representation()
        )
    query.module.query_batches[:] = True
    better, worse = (one.get_reconstruction_error()["rna"] for one in (query, amortised))
    assert better < worse
    query = mapped(model, cells)
    assert query.module.query_batches.tolist() == [False, False, True]
    np.testing.assert_array_equal(
        query.get_latent_representation(model.adata), model.get_latent_representation()
    )


def test_cells_of_an_earlier_query_are_still_refined(vae):
    model, cells = vae
    later = cells.copy()
    later.obs["batch"] = "later"
    first = mapped(model, cells)
    second = mapped(first, later)
    assert second.batches[2:] == ["new", "later"]
    assert second.module.query_batches.tolist() == [False, False, True, True]
    np.testing.assert_array_equal(
        second.get_latent_representation(cells), first.get_latent_representation()
    )


@pytest.mark.parametrize(("steps", "all_batches"), [(0, False), (3, True)])
def test_how_cells_are_refined_is_saved(vae, tmp_path, steps, all_batches):
    model, cells = vae
    query = mapped(model, cells)
    query.module.refine_steps = steps
    query.module.query_batches[:] |= all_batches
    query.save(tmp_path / "query")
    again = MaskedVAE.load(tmp_path / "query", cells)
    assert again.module.refine_steps == steps
    for data in (cells, model.adata):
        np.testing.assert_array_equal(
            again.get_latent_representation(data), query.get_latent_representation(data)
        )
    assert mapped(query, cells).module.refine_steps != steps  # of this model alone


def test_without_batches_all_cells_are_those_of_the_query(vae):
    _, cells = vae
    MaskedVAE.setup_mudata(cells)
    model = MaskedVAE(cells)
    model.train(max_epochs=1, enable_progress_bar=False)
    assert model.module.query_batches is None
    assert mapped(model, cells).module.query_batches.tolist() == [True]


def test_refinement_sees_what_the_encoder_sees(vae):
    """Neither features that are held out nor modalities that are no source."""
    model, cells = vae
    z = mapped(model, cells).get_latent_representation(source="rna")
    other = cells.copy()
    values = other["rna"].X.toarray()
    values[:, :10] += 5
    other["rna"].X = values
    other["protein"].X = other["protein"].X.toarray()[:, ::-1].copy()
    again = mapped(model, other)
    # Held-out counts are counted nowhere, so not in the depth either.
    np.testing.assert_allclose(again.get_latent_representation(source="rna"), z, atol=1e-4)
    assert not np.allclose(again.get_latent_representation(), z, atol=0.05)


def test_a_query_is_validated_while_it_is_trained(vae):
    model, cells = vae
    query = mapped(model, cells)
    query.train(max_epochs=2, check_val_every_n_epoch=1, enable_progress_bar=False)
    assert np.isfinite(query.history["validation_loss"].to_numpy(float)).all()
    weights = model.module.state_dict()
    for name, weight in query.module.state_dict().items():
        if "embeddings" not in name and name in weights:
            assert torch.equal(weight, weights[name])


def test_history_begins_after_the_starting_point():
    mdata = simulate_mosaic(60, {"one": ("rna", "protein")}, {"rna": 40, "protein": 8}, 3)
    CrossAttentionMAE.setup_mudata(mdata, labels_key="cell_type")
    model = CrossAttentionMAE(mdata)
    model.train(max_epochs=0)
    assert model.history is None
    model.finetune(max_epochs=2, head_steps=10, enable_progress_bar=False)
    assert len(model.history["train_loss"]) == 2
