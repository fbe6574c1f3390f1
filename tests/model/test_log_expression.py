"""Expected logarithms of counts."""

from __future__ import annotations

import mudata as md
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.nn import Metacells

SMALL = {
    MaskedVAE: {"n_latent": 4, "n_hidden": 16},
    CrossAttentionMAE: {"n_latent": 6, "n_embed": 8, "n_heads": 2},
}


def brief(cls, mdata, epochs=2, setup=None, **model):
    cls.setup_mudata(mdata, **{"batch_key": "batch", **(setup or {})})
    model = cls(mdata, **{**SMALL[cls], **model})
    model.train(max_epochs=epochs, batch_size=32, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module", params=SMALL, ids=lambda cls: cls.__name__)
def model(request, make_mosaic):
    scvi.settings.seed = 0
    return brief(request.param, make_mosaic(), setup={"labels_key": "some_labels"})


def test_names_cells_and_features(model):
    mdata = model.adata
    logs = model.get_log_expression(modality="protein")
    assert list(logs.index) == list(mdata.obs_names)
    assert list(logs.columns) == list(model.feature_names("protein"))
    assert np.isfinite(logs).all().all() and (logs >= 0).all().all()
    pd.testing.assert_frame_equal(
        model.get_log_expression(), model.get_log_expression(modality="rna")
    )
    chosen, features = mdata.obs_names[[50, 3]], ["protein4", "protein1"]
    some = model.get_log_expression(
        modality="protein", indices=chosen, features=features, batch_size=1
    )
    pd.testing.assert_frame_equal(some, logs.loc[chosen, features], rtol=1e-4, atol=1e-5)
    assert model.get_log_expression(indices=[]).shape == (0, 14)


def test_without_memory_it_is_the_logarithm_of_the_decoder(model):
    """Of generated proteins, whose total is the one that is expected there too."""
    rna = (model.adata.obsm["rna"] > 0).ravel()
    options = {"modality": "protein", "source": "rna", "indices": np.flatnonzero(rna)}
    with_memory = model.get_log_expression(**options)
    alone = decoder_alone(model, **options)
    expected = np.log1p(model.get_normalized_expression(**options))
    pd.testing.assert_frame_equal(alone, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(with_memory - alone).max().max() > 1e-2


def test_cells_without_a_source_get_nan(model):
    has = (model.adata.obsm["protein"] > 0).ravel()
    with pytest.warns(UserWarning, match="have none of the source modalities"):
        logs = model.get_log_expression(modality="rna", source="protein")
    assert np.array_equal(np.isfinite(logs).all(axis=1), has)
    assert logs[~has].isna().all().all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"modality": "atac"}, ValueError, "'atac' does not hold counts"),
        ({"modality": "metabolites"}, ValueError, "not in the model"),
        ({"features": ["gene"]}, KeyError, "'gene'"),
        ({"transform_batch": "new"}, ValueError, "no batch of the model"),
        ({"source": []}, ValueError, "empty"),
    ],
)
def test_bad_input(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.get_log_expression(**arguments)


def decoder_alone(model, level=False, **options) -> pd.DataFrame:
    """Without the memory, which stays; if asked, at the first categories and average numbers."""
    metacells, inner = model.module.metacells, model.module._get_generative_input
    memory = {n: b.clone() for n, b in metacells.named_buffers()}

    def at_one_level(*given):
        inputs = inner(*given)
        zeros = {name: torch.zeros_like(v) for name, v in inputs["covariates"].items()}
        return {**inputs, "covariates": zeros}

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="remembered"):
        if level:
            patch.setattr(model.module, "_get_generative_input", at_one_level)
        metacells.forget()
        logs = model.get_log_expression(**options)
    metacells.load_state_dict(memory)
    return logs


def test_memory_is_what_was_measured_as_if_at_one_level(trained):
    """Against the definition, step by step; masked and unmeasured elements are the decoder's."""
    mdata, metacells = trained.adata, trained.module.metacells
    z = trained.get_latent_representation()
    centres = metacells.places.numpy()
    nearest = np.linalg.norm(z[:, None] - centres[None], axis=2).argmin(1)
    for name in ("rna", "protein"):
        cells = mdata.obs_names[mdata.obs_names.isin(mdata[name].obs_names)]
        numbers = mdata.obs_names.get_indexer(cells)
        own, first = (
            decoder_alone(trained, level, modality=name, indices=cells).to_numpy()
            for level in (False, True)
        )
        x = np.log1p(mdata[name][cells].X.toarray())
        if name == "rna":
            x = np.where(mdata[name][cells].layers["seen"], x, own)
        else:
            x[np.ix_(cells.str.startswith("cite"), [0, 1])] = own[cells.str.startswith("cite")][
                :, :2
            ]
        levels = pd.DataFrame(x - own + first).groupby(nearest[numbers]).mean()
        found = metacells.get_buffer(f"levels_{name}").numpy()[levels.index]
        np.testing.assert_allclose(found, levels, rtol=1e-3, atol=1e-4)
        sizes = np.bincount(nearest[numbers], minlength=len(centres))
        assert np.array_equal(metacells.get_buffer(f"sizes_{name}").numpy(), sizes)


def test_memory_of_cells_as_they_look_without_a_modality(trained):
    """The same groups as with these cells alone; `solo` has no protein, `asap` nothing but ATAC."""
    mdata, memory = trained.adata, trained.module.metacells.without["protein"]
    cells = mdata.obs_names[mdata.obs["batch"] != "solo"]
    z = trained.get_latent_representation(indices=cells, source=["rna", "atac"])
    again = Metacells(z.shape[1], {"protein": 6})
    again.place(torch.as_tensor(z))
    torch.testing.assert_close(memory.places, again.places, rtol=1e-3, atol=1e-4)
    assert memory.sizes_protein.sum() == len(cells)
    of_rna = trained.module.metacells.without["rna"].sizes_rna.sum()
    assert of_rna == (mdata.obs["batch"] == "cite").sum()


@pytest.mark.parametrize("source", ["rna", ["rna", "protein"]])
def test_half_decoder_half_memory(trained, source):
    """Against the definition, for another batch than that of the memory's level."""
    _, other, _ = trained.batches
    metacells, options = trained.module.metacells, {"modality": "protein", "source": source}
    cells = trained.adata.obs_names[(trained.adata.obsm["rna"] > 0).ravel()]
    z = torch.as_tensor(trained.get_latent_representation(indices=cells, source=source))
    nearby = metacells.without["protein"](z, "protein").numpy()
    if source != "rna":
        shown = (trained.adata.obs.loc[cells, "batch"] == "cite").to_numpy()
        nearby[shown] = metacells(z, "protein").numpy()[shown]
    options |= {"indices": cells}
    logs = trained.get_log_expression(transform_batch=other, **options)
    decoded = decoder_alone(trained, transform_batch=other, **options)
    as_first = decoder_alone(trained, level=True, **options)
    expected = (decoded + (nearby - as_first) / 2).clip(lower=0)
    pd.testing.assert_frame_equal(logs, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(decoded - as_first).max().max() > 0.05
    assert np.abs(nearby - as_first).max().max() > 0.2


def test_batches_differ_as_the_decoder_says(trained):
    """The memory is one for all batches."""
    options = {"modality": "protein"}
    of = lambda batch: trained.get_log_expression(transform_batch=batch, **options)
    logs = {batch: of(batch) for batch in trained.batches}
    both = of(trained.batches[:2])
    alone = {b: decoder_alone(trained, transform_batch=b, **options) for b in trained.batches}
    one, other, _ = trained.batches
    positive = (logs[one] > 0) & (logs[other] > 0)  # nothing was cut at 0
    assert positive.mean().mean() > 0.8
    difference = (logs[one] - logs[other])[positive]
    pd.testing.assert_frame_equal(
        difference, (alone[one] - alone[other])[positive], rtol=1e-3, atol=1e-4
    )
    pd.testing.assert_frame_equal(
        both[positive], ((logs[one] + logs[other]) / 2)[positive], rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["batch_key", "categorical", "continuous"])
@pytest.mark.parametrize("cls", SMALL)
def test_covariates_differ_as_the_decoder_says(cls, kind):
    """Eight times the first protein in every other cell, whose RNA does not show it."""
    rng = np.random.default_rng(0)
    names = pd.DataFrame(index=[f"cell{i}" for i in range(300)])
    more = np.arange(300) % 2 == 1
    rna = AnnData(rng.poisson(5.0, (300, 20)).astype("float32"), obs=names.copy())
    mean = np.full((300, 6), 30.0)
    mean[more, 0] *= 8
    mdata = md.MuData({"rna": rna, "protein": AnnData(rng.poisson(mean).astype("float32"), names)})
    mdata.obs["dose"], mdata.obs["condition"] = more * 1.0, np.where(more, "treated", "control")
    setup = {
        "batch_key": {"batch_key": "condition"},
        "categorical": {"categorical_covariate_keys": ["condition"]},
        "continuous": {"continuous_covariate_keys": ["dose"]},
    }[kind]
    model = brief(cls, mdata, epochs=30, setup={"batch_key": None, **setup})
    options = {"modality": "protein", "source": "rna"}
    effect = lambda logs: float((logs[more].mean() - logs[~more].mean()).iloc[0])
    decoded = effect(decoder_alone(model, **options))
    assert decoded > 1
    assert effect(model.get_log_expression(**options)) == pytest.approx(decoded, rel=0.1)


@pytest.fixture(scope="module")
def undecided():
    """Cells that look alike in RNA; half of them carry 100 of the first protein, half none."""
    rng = np.random.default_rng(0)
    names = pd.DataFrame(index=[f"cell{i}" for i in range(600)])
    rna = AnnData(rng.poisson(5.0, (600, 10)).astype("float32"), obs=names.copy())
    high = rng.random(600) < 0.5
    counts = rng.poisson(np.where(high, 100.0, 0.5)[:, None] * [1, 0] + [0, 30]).astype("float32")
    protein = AnnData(counts, obs=names.copy())
    rna.var_names = [f"gene{i}" for i in range(10)]
    protein.var_names = ["either", "constant"]
    mdata = md.MuData({"rna": rna, "protein": protein})
    mdata.obs["batch"] = "one"
    return mdata


def test_two_levels_that_are_open_give_one_between_them(undecided):
    # A linear decoder goes from one level to the other on a straight line, by the other protein too.
    model = brief(MaskedVAE, undecided, epochs=20, linear_decoder=False)
    query = md.MuData({"rna": undecided["rna"][:200].copy()})
    query.obs["batch"] = "one"
    query = MaskedVAE.load_query_data(query, model)
    logs = query.get_log_expression(modality="protein").mean()
    log_of_mean = np.log1p(query.get_normalized_expression(modality="protein")).mean()
    mean_of_logs = np.log1p(undecided["protein"].to_df()).mean()
    assert log_of_mean["either"] > mean_of_logs["either"] + 1
    half_way = (log_of_mean["either"] + mean_of_logs["either"]) / 2  # the memory is half of it
    assert logs["either"] == pytest.approx(half_way, abs=0.1)
    assert logs["constant"] == pytest.approx(mean_of_logs["constant"], abs=0.2)


def test_what_was_not_measured_leaves_no_trace(make_mosaic):
    found = []
    for hidden in (0.0, 1000.0):
        mosaic = make_mosaic()
        rna = mosaic["rna"]
        seen = np.random.default_rng(1).random(rna.shape) < 0.8
        rna.X = np.where(seen, rna.X.toarray(), hidden)
        rna.layers["seen"] = seen
        scvi.settings.seed = 0
        model = brief(MaskedVAE, mosaic, setup={"mask_layers": {"rna": "seen"}})
        found.append(model.get_log_expression(modality="rna"))
    pd.testing.assert_frame_equal(*found, rtol=1e-4, atol=1e-5)


def test_memory_is_saved_and_goes_to_queries(model, make_mosaic, tmp_path):
    cls = type(model)
    query = make_mosaic(8, {"solo": ("rna",)}, seed=4)
    query.obs["some_labels"] = "Unknown"
    mapped = cls.load_query_data(query, model)
    logs = mapped.get_log_expression(modality="protein")
    model.save(tmp_path / "model", overwrite=True)
    loaded = cls.load(tmp_path / "model", model.adata)
    pd.testing.assert_frame_equal(
        loaded.get_log_expression(modality="protein"), model.get_log_expression(modality="protein")
    )
    again = cls.load_query_data(query, tmp_path / "model")
    pd.testing.assert_frame_equal(again.get_log_expression(modality="protein"), logs)
    levels = mapped.module.metacells.levels_protein.clone()
    query.obs["batch"] = "new"
    mapped = cls.load_query_data(query, model)
    mapped.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    assert (mapped.module.metacells.levels_protein == levels).all()
    mapped = cls.load_query_data(query, model, unfrozen=True)  # and the latent space moves
    mapped.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    assert not mapped.module.metacells.knows("protein")
    assert mapped.module.metacells.knows("rna")  # which it has itself


@pytest.mark.parametrize("cls", SMALL)
def test_training_forgets_and_makes_anew(cls, make_mosaic, monkeypatch):
    model = brief(cls, make_mosaic())
    places = model.module.metacells.places.clone()
    knew, inner = [], model.module.loss

    def loss(*args, **kwargs):
        knew.append(model.module.metacells.knows("rna"))
        return inner(*args, **kwargs)

    monkeypatch.setattr(model.module, "loss", loss)
    model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    assert knew and not any(knew)
    assert model.module.metacells.knows("rna")
    assert not (model.module.metacells.places == places).all()


def test_all_of_the_network_fine_tuned(make_mosaic):
    model = brief(CrossAttentionMAE, make_mosaic(), setup={"labels_key": "some_labels"})
    before = model.module.metacells.places.clone()
    options = {"enable_progress_bar": False, "accelerator": "cpu"}
    model.finetune(head_steps=20)
    assert (model.module.metacells.places == before).all()
    model.finetune(max_epochs=1, head_steps=20, train_size=1.0, **options)
    assert model.module.metacells.knows("rna")
    assert not (model.module.metacells.places == before).all()


def test_no_counts_no_memory(make_mosaic):
    mosaic = make_mosaic(batches={"solo": ("atac",)})
    model = brief(MaskedVAE, mosaic)
    assert model.module.metacells.names == []
    with pytest.raises(ValueError, match="does not hold counts"):
        model.get_log_expression()
