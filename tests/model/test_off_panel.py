"""Features off a panel: differences between cells are imputed as far as they are borne out."""

from __future__ import annotations

import mudata as md
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.model import _decode, _off_panel
from mumask.model._off_panel import Trust, _moments, _slopes, trust_off_panel

OFF = ["rna1", "rna4", "rna9"]
PANEL = {"rna": {"cite": [f"rna{j}" for j in range(14) if f"rna{j}" not in OFF]}}
SMALL = {
    MaskedVAE: {"n_latent": 4, "n_hidden": 16},
    CrossAttentionMAE: {"n_latent": 6, "n_embed": 8, "n_heads": 2},
}


def brief(cls, mosaic, **setup):
    cls.setup_mudata(mosaic, batch_key="batch", panels=PANEL, **setup)
    model = cls(mosaic, **SMALL[cls])
    model.train(max_epochs=5, batch_size=32, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module", params=SMALL, ids=lambda cls: cls.__name__)
def model(request, make_mosaic):
    scvi.settings.seed = 0
    return brief(request.param, make_mosaic())


@pytest.fixture(autouse=True)
def little_is_enough(monkeypatch):
    monkeypatch.setattr(_off_panel, "LEAST_FEATURES", 5)
    monkeypatch.setattr(_off_panel, "LEAST_CELLS", 20)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_slopes_are_those_that_counts_were_drawn_with(slope):
    """Whatever the levels: only differences between cells are compared."""
    rng = np.random.default_rng(0)
    total = rng.integers(500, 2000, (4000, 1)).astype(float)
    mean = np.array([0.001, 0.01, 0.05])
    deviation = rng.normal(0, 0.25, (4000, 3)).clip(-0.9)
    x = rng.poisson(total * mean * (1 + slope * deviation))
    rate = 3 * mean * (1 + deviation)  # another technology: three times the level
    terms = [total.repeat(3, 1), x, total * rate, x * rate, total * rate**2]
    found = _slopes(torch.as_tensor(np.stack([term.sum(0) for term in terms])))
    np.testing.assert_allclose(found, slope, atol=0.12)


def test_only_panels_that_lack_features_are_looked_at(model, monkeypatch):
    mdata = model.adata
    everyone, cite = np.arange(mdata.n_obs), np.flatnonzero(mdata.obs["batch"] == "cite")
    trust = trust_off_panel(model, mdata, everyone, "rna", [None])
    assert list(trust) == [model.batches.index("cite")]
    (known,) = trust.values()
    assert 0 <= known.slope <= 1
    assert known.rates.shape == (14,)
    assert (
        trust_off_panel(model, mdata, everyone, "protein", [None]) == {}
    )  # nothing is off its panel
    assert trust_off_panel(model, mdata, everyone, "atac", [None]) == {}  # no counts
    some = trust_off_panel(model, mdata, cite[:2], "rna", [None])  # all of their batch counts
    assert some[model.batches.index("cite")].slope == known.slope
    others = np.setdiff1d(everyone, cite)
    assert trust_off_panel(model, mdata, others, "rna", [None]) == {}
    monkeypatch.setattr(_off_panel, "LEAST_FEATURES", 12)  # 11 are on the panel
    assert trust_off_panel(model, mdata, everyone, "rna", [None]) == {}


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0])
def test_deviations_are_scaled(model, monkeypatch, slope):
    rates = torch.rand(14)
    trust = {model.batches.index("cite"): Trust(slope, rates)}
    as_decoded, scaled = ({}, trust)
    imputed = []
    for one in (as_decoded, scaled):
        monkeypatch.setattr(_decode, "trust_off_panel", lambda *_, one=one: one)
        imputed.append(model.impute(modalities=["rna"])["rna"].to_df())
    decoded, believed = imputed
    cite = decoded.index.str.startswith("cite")
    pd.testing.assert_frame_equal(believed[~cite], decoded[~cite])
    on = [name for name in decoded if name not in OFF]
    pd.testing.assert_frame_equal(believed[on], decoded[on])  # what was measured
    total = decoded.loc[cite, on].to_numpy().sum(axis=1, keepdims=True)
    average = total * rates.numpy()[[1, 4, 9]]
    expected = average + slope * (decoded.loc[cite, OFF] - average)
    pd.testing.assert_frame_equal(believed.loc[cite, OFF], expected, rtol=1e-4, check_dtype=False)


@pytest.fixture(scope="module")
def two_panels(make_mosaic):
    """Two batches with panels of their own, a fifth of the cells of one without RNA."""
    scvi.settings.seed = 0
    mosaic = make_mosaic()
    rna = mosaic["rna"]
    drop = [f"cite_{i}" for i in range(6)]
    mosaic.mod["rna"] = rna[~rna.obs_names.isin(drop)].copy()
    mosaic.update()
    others = [name for name in rna.var_names if name not in ("rna2", "rna4")]
    panels = {"rna": {**PANEL["rna"], "solo": others}}
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", panels=panels)
    model = MaskedVAE(mosaic, **SMALL[MaskedVAE])
    model.train(max_epochs=5, batch_size=32, enable_progress_bar=False, accelerator="cpu")
    return model


def test_each_batch_is_trusted_by_itself(two_panels, monkeypatch):
    """And cells without the modality are decoded as they were."""
    model, names = two_panels, two_panels.feature_names("rna")
    rates = {batch: torch.rand(14) for batch in ("cite", "solo")}
    slopes = {"cite": 0.2, "solo": 0.7}
    trust = {model.batches.index(b): Trust(slopes[b], rates[b]) for b in slopes}
    imputed = []
    for one in ({}, trust):
        monkeypatch.setattr(_decode, "trust_off_panel", lambda *_, one=one: one)
        imputed.append(model.impute(modalities=["rna"])["rna"].to_df())
    decoded, believed = imputed
    without = ~decoded.index.isin(model.adata["rna"].obs_names)
    assert without[decoded.index.str.startswith("cite")].sum() == 6
    pd.testing.assert_frame_equal(believed[without], decoded[without])
    for batch, off in (("cite", OFF), ("solo", ["rna2", "rna4"])):
        cells = decoded.index.str.startswith(batch) & ~without
        assert cells.sum() >= 24
        on = [name for name in names if name not in off]
        pd.testing.assert_frame_equal(believed.loc[cells, on], decoded.loc[cells, on])
        total = decoded.loc[cells, on].to_numpy().sum(axis=1, keepdims=True)
        average = total * rates[batch].numpy()[names.get_indexer(off)]
        expected = average + slopes[batch] * (decoded.loc[cells, off] - average)
        pd.testing.assert_frame_equal(
            believed.loc[cells, off], expected, rtol=1e-4, check_dtype=False
        )


def test_hidden_is_once_each_what_others_measured_too(two_panels, monkeypatch):
    """Of the batch "cite": all but what is off its panel, and rna2, which no other batch measured."""
    model, hidden, inner = two_panels, [], _moments
    monkeypatch.setattr(
        _off_panel, "_moments", lambda *a: hidden.append(a[-1].tolist()) or inner(*a)
    )
    cite = np.flatnonzero(model.adata.obs["batch"] == "cite")
    trust_off_panel(model, model.adata, cite, "rna", [None])
    *parts, last = hidden
    assert len(parts) == 5
    assert last == []
    assert sorted(sum(parts, [])) == [0, 3, 5, 6, 7, 8, 10, 11, 12, 13]


def test_as_if_from_another_batch(two_panels):
    model = two_panels
    code = model.batches.index("cite")
    cite = np.flatnonzero(model.adata.obs["batch"] == "cite")
    own, same, other = (
        trust_off_panel(model, model.adata, cite, "rna", [as_])[code].rates
        for as_ in (None, code, model.batches.index("solo"))
    )
    torch.testing.assert_close(own, same)
    assert not torch.allclose(own, other, rtol=1e-3)


def test_the_mean_over_cells_is_kept(model, monkeypatch):
    """Of as many cells as are looked at; their totals weigh."""
    imputed = model.impute(modalities=["rna"])["rna"].to_df()
    monkeypatch.setattr(_decode, "trust_off_panel", lambda *_: {})
    decoded = model.impute(modalities=["rna"])["rna"].to_df()
    cite = decoded.index.str.startswith("cite")
    sums = imputed.loc[cite, OFF].sum(), decoded.loc[cite, OFF].sum()
    pd.testing.assert_series_equal(*sums, rtol=1e-3)
    assert (imputed.loc[cite, OFF].std() <= decoded.loc[cite, OFF].std() * 1.001).all()


def test_some_cells_or_all_and_minibatches_give_the_same(model):
    mdata = model.adata
    everything = model.impute(modalities=["rna"])["rna"].to_df()
    chosen = mdata.obs_names[mdata.obs["batch"] == "cite"][[4, 2]]
    some = model.impute(indices=chosen, modalities=["rna"], batch_size=1)["rna"].to_df()
    pd.testing.assert_frame_equal(some, everything.loc[chosen], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("cls", SMALL)
def test_what_is_hidden_is_hidden(cls, make_mosaic):
    """Counts of hidden features move no expectation."""
    hidden, sums = torch.tensor([2, 3]), []
    for count in (0, 50):
        mosaic = make_mosaic()
        scvi.settings.seed = 0
        model = brief(cls, mosaic)
        rna = mosaic["rna"]
        x = rna.X.toarray()
        x[:, hidden] = count
        rna.X = x
        cells = np.flatnonzero(mosaic.obs["batch"] == "cite")
        sums.append(_moments(model, mosaic, cells, "rna", [None], hidden))
    for row in (0, 2, 4):  # totals, expected counts, and their squares
        torch.testing.assert_close(sums[0][row], sums[1][row])
    assert sums[1][1, 2] == 50 * 30


def test_masked_elements_bear_nothing_out(make_mosaic):
    mosaics = []
    for stored in (0.0, 500.0):
        mosaic = make_mosaic()
        rna = mosaic["rna"]
        seen = np.random.default_rng(3).random(rna.shape) < 0.8
        rna.X = np.where(seen, rna.X.toarray(), stored)
        rna.layers["seen"] = seen
        scvi.settings.seed = 0
        mosaics.append(brief(MaskedVAE, mosaic, mask_layers={"rna": "seen"}))
    (one,), (other,) = (
        trust_off_panel(m, m.adata, np.arange(90), "rna", [None]).values() for m in mosaics
    )
    assert one.slope == pytest.approx(other.slope, abs=1e-4)
    torch.testing.assert_close(one.rates, other.rates)


def test_data_of_one_batch_give_what_the_same_cells_give_among_all(model):
    """What others measured is known from the training, whether or not they are passed."""
    mdata = model.adata
    cite = mdata.obs_names[mdata.obs["batch"] == "cite"]
    among_all = model.impute(indices=cite, modalities=["rna"])["rna"].to_df()
    parts = {m: a[a.obs_names.isin(cite)].copy() for m, a in mdata.mod.items() if m != "atac"}
    one_batch = md.MuData(parts)
    one_batch.obs["batch"] = "cite"
    alone = model.impute(one_batch, modalities=["rna"])["rna"].to_df().loc[among_all.index]
    pd.testing.assert_frame_equal(alone, among_all, rtol=1e-4, atol=1e-5)


def test_a_handful_of_cells_bears_nothing_out(model, monkeypatch):
    cite = np.flatnonzero(model.adata.obs["batch"] == "cite")
    assert trust_off_panel(model, model.adata, cite, "rna", [None])
    monkeypatch.setattr(_off_panel, "LEAST_CELLS", len(cite) + 1)
    assert not trust_off_panel(model, model.adata, cite, "rna", [None])


@pytest.mark.parametrize("batch_key", ["batch", None])
def test_a_query_with_fewer_features(make_mosaic, batch_key):
    """Known to the reference, whether or not it tells its batches from the query's."""
    mosaic = make_mosaic()
    MaskedVAE.setup_mudata(mosaic, batch_key=batch_key)
    model = MaskedVAE(mosaic, **SMALL[MaskedVAE])
    model.train(max_epochs=5, batch_size=32, enable_progress_bar=False, accelerator="cpu")
    query = make_mosaic(20, {"new": ("rna",)}, seed=3)
    query.mod["rna"] = query["rna"][:, 4:].copy()
    query.update()
    mapped = MaskedVAE.load_query_data(query, model)
    (known,) = trust_off_panel(mapped, query, np.arange(20), "rna", [None]).values()
    assert 0 <= known.slope <= 1
    complete = mapped.impute(modalities=["rna"])["rna"]
    assert (complete.X >= 0).all() and np.isfinite(complete.X).all()


def test_differences_that_are_not_there_are_not_imputed(make_mosaic):
    """A decoder that makes up what differs between cells is believed less."""
    mosaic = make_mosaic(200)
    scvi.settings.seed = 0
    MaskedVAE.setup_mudata(mosaic, batch_key="batch", panels=PANEL)
    model = MaskedVAE(mosaic, n_latent=4, n_hidden=32)
    model.train(max_epochs=40, batch_size=64, enable_progress_bar=False, accelerator="cpu")
    (honest,) = trust_off_panel(model, mosaic, np.arange(600), "rna", [None]).values()
    inner = model.module.expected

    def exaggerated(hidden, modality, total, mask=None, features=None):
        values = inner(hidden, modality, total, mask, features)
        return values * torch.exp(torch.randn(len(values), values.shape[1]))

    model.module.expected = exaggerated
    (doubted,) = trust_off_panel(model, mosaic, np.arange(600), "rna", [None]).values()
    assert honest.slope > 0.75
    assert doubted.slope < honest.slope - 0.3
