"""What a query measured where nothing tells: what the reference expects of its cells, they lack."""

from __future__ import annotations

import logging

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.data._panels import find_panel
from mumask.datasets import simulate_mosaic
from mumask.pp import concat_batches

N_GENES, N_REFERENCE = 400, 1500


@pytest.fixture(scope="module")
def pbmc() -> md.MuData:
    """Types of which each has genes of its own: a third of the genes is off in all but one type."""
    mdata = simulate_mosaic(
        2000, {"one": ("rna", "protein")}, {"rna": N_GENES, "protein": 10}, n_cell_types=3, seed=4
    )
    types = mdata.obs["cell_type"].cat.codes
    rna, rng = mdata["rna"], np.random.default_rng(0)
    values = rng.poisson(0.5, rna.shape)
    markers = np.arange(N_GENES) % 9
    values[:, markers < 3] *= types.loc[rna.obs_names].to_numpy()[:, None] == markers[markers < 3]
    rna.X = values.astype("float32")
    return mdata


@pytest.fixture(scope="module", params=[MaskedVAE, CrossAttentionMAE])
def reference(request, pbmc):
    scvi.settings.seed = 0
    known = pbmc[:N_REFERENCE].copy()
    request.param.setup_mudata(known, batch_key="batch")
    model = request.param(known)
    model.train(enable_progress_bar=False)
    return model


@pytest.fixture
def one_type(pbmc):
    """New cells of one type, RNA alone."""

    def make(hidden: slice = slice(0)) -> md.MuData:
        new = pbmc[N_REFERENCE:]
        rna = new["rna"][(new.obs["cell_type"] == "L1a")[new["rna"].obs_names]].copy()
        rna.X[:, hidden] = 0
        query = md.MuData({"rna": rna})
        query.obs["batch"] = "new"
        return query

    return make


def map_panel(reference, query) -> tuple:
    mapped = type(reference).load_query_data(query, reference)
    return mapped, mapped._state("X_rna")["panel"][mapped.batches.index("new")]


def test_marker_genes_of_other_types_were_measured(reference, one_type, caplog):
    """They are zero in all cells of the query, at rates in the reference that rule out chance."""
    query, known = one_type(), reference.adata["rna"].X
    shown = np.stack([(query["rna"].X > 0).sum(axis=0), (known > 0).sum(axis=0)])
    assert (shown[0] == 0).sum() > 50
    by_rate = find_panel(shown, np.array([query.n_obs, N_REFERENCE]))[0]
    assert (~by_rate).sum() > 50, "rates of all types together would do"
    with caplog.at_level(logging.INFO, logger="mumask"):
        _, panel = map_panel(reference, query)
    assert (~panel).sum() < (~by_rate).sum() / 2
    if isinstance(reference, MaskedVAE):  # CrossAttentionMAE knows rare counts less well
        assert panel.all()
        assert "Panel of" not in caplog.text


def test_genes_that_this_type_has_were_not_measured(reference, one_type, caplog):
    query, hidden = one_type(slice(0, 90)), np.arange(N_GENES) < 90
    due = hidden & (np.asarray(one_type()["rna"].X).mean(axis=0) > 0.2)
    with caplog.at_level(logging.INFO, logger="mumask"):
        mapped, panel = map_panel(reference, query)
    assert due.sum() > 40
    assert not panel[due].any()
    assert panel[query["rna"].X.any(axis=0)].all()
    assert f"batch 'new' measured {panel.sum()} of {N_GENES} features" in caplog.text
    # With so many lacking, what could be zero as well is more likely off the panel than not.
    np.testing.assert_array_equal(mapped.module.panel_rna[mapped.batches.index("new")], panel)


def test_a_record_is_believed(reference, one_type):
    query = one_type()
    names = query["rna"].var_names
    query["rna"].varm["measured"] = pd.DataFrame({"new": np.arange(N_GENES) >= 7}, index=names)
    _, panel = map_panel(reference, query)
    np.testing.assert_array_equal(panel, np.arange(N_GENES) >= 7)


def test_features_that_the_query_does_not_have_are_off_its_panel(reference, one_type):
    query = one_type()
    query = md.MuData({"rna": query["rna"][:, 100:].copy()})
    query.obs["batch"] = "new"
    _, panel = map_panel(reference, query)
    assert not panel[:100].any()
    assert panel[100:][np.asarray(query["rna"].X).any(axis=0)].all()


def test_batches_of_a_query_have_panels_of_their_own(reference, one_type):
    whole, narrow = one_type()["rna"], one_type(slice(0, 90))["rna"]
    narrow.obs_names = "narrow" + narrow.obs_names
    query = md.MuData({"rna": ad.concat([whole, narrow])})
    query.obs["batch"] = np.where(query.obs_names.str.startswith("narrow"), "narrow", "new")
    mapped = type(reference).load_query_data(query, reference)
    panel = mapped._state("X_rna")["panel"]
    lost = {name: (~panel[mapped.batches.index(name)][:90]).sum() for name in ("new", "narrow")}
    assert lost["new"] < 45 < lost["narrow"]


def test_few_cells_of_a_large_query_are_asked_about(reference, one_type, monkeypatch):
    """What any cell shows was measured, whether it was asked about or not."""
    query = one_type()
    rare = int(np.flatnonzero(np.arange(N_GENES) % 9 > 3)[0])
    query["rna"].X[:, rare] = 0
    query["rna"].X[-1, rare] = 1
    monkeypatch.setattr("mumask.model._query_panels.CELLS", 40)
    _, panel = map_panel(reference, query)
    assert panel[rare]


def test_asking_draws_nothing(reference, one_type):
    """A training of the query is the same whether its panel is known or found."""
    states = []
    for query in (one_type(), one_type()):
        if states:
            names = query["rna"].var_names
            query["rna"].varm["measured"] = pd.DataFrame({"new": True}, index=names)
        scvi.settings.seed = 3
        type(reference).load_query_data(query, reference)
        states.append((torch.get_rng_state(), np.random.get_state()[1]))
    assert torch.equal(states[0][0], states[1][0])
    np.testing.assert_array_equal(states[0][1], states[1][1])


def test_zeros_of_normalised_values_are_no_gaps(one_type, pbmc):
    """Real values were taken to be due in every cell, so that each feature without one was off."""
    scvi.settings.seed = 0
    rng, known, query = np.random.default_rng(0), pbmc[:N_REFERENCE].copy(), one_type()
    kept = rng.random(N_GENES) ** 4  # few genes are in most cells
    for mdata in (known, query):
        rna = mdata["rna"]
        counts = rng.binomial(rna.X.astype(int), kept)
        counts[:, 3] += counts.sum(axis=1) == 0
        rna.X = np.log1p(1e3 * counts / counts.sum(axis=1, keepdims=True)).astype("float32")
    query = query[:60].copy()
    MaskedVAE.setup_mudata(known, ["rna"], batch_key="batch", likelihoods={"rna": "gaussian"})
    reference = MaskedVAE(known)
    reference.train(max_epochs=2, enable_progress_bar=False)
    rare = ~query["rna"].X.any(axis=0) & ((known["rna"].X > 0).mean(axis=0) < 0.01)
    assert rare.sum() > 50
    _, panel = map_panel(reference, query)
    assert panel[rare].all()


def test_what_is_stored_where_nothing_was_measured_does_not_tell(pbmc, one_type):
    known, panels = pbmc[:N_REFERENCE].copy(), []
    known["rna"].layers["seen"] = np.ones(known["rna"].shape, dtype=bool)
    MaskedVAE.setup_mudata(known, ["rna"], batch_key="batch", mask_layers={"rna": "seen"})
    reference = MaskedVAE(known)
    reference.train(max_epochs=2, enable_progress_bar=False)
    for stored in (0, 1):
        query = one_type()
        rna = query["rna"]
        seen = np.ones(rna.shape, dtype=bool)
        seen[5:, ::2] = False  # half of the genes were measured in five cells alone
        rna.layers["seen"], rna.X = seen, np.where(seen, rna.X, stored * rna.X)
        rna.X[:, 3] += (rna.X * seen).sum(axis=1) == 0
        panels.append(map_panel(reference, query)[1])
    np.testing.assert_array_equal(*panels)


def test_cells_without_the_modality_are_not_asked_about(reference, one_type, pbmc, monkeypatch):
    """Of a large batch that has it in some cells, those few would hardly tell."""
    rna, protein = one_type(slice(0, 90))["rna"], pbmc[N_REFERENCE:]["protein"].copy()
    protein = protein[~protein.obs_names.isin(rna.obs_names)].copy()
    panels = []
    for query in (md.MuData({"rna": rna.copy()}), md.MuData({"rna": rna, "protein": protein})):
        query.obs["batch"] = "new"
        monkeypatch.setattr("mumask.model._query_panels.CELLS", rna.n_obs)
        panels.append(map_panel(reference, query)[1])
    np.testing.assert_array_equal(*panels)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_batch_that_shares_no_feature_is_told(reference, one_type, recorded):
    """Gene ids beside symbols: to the reference all its cells are the same one."""
    symbols = one_type()["rna"][:20].copy()
    ids = one_type()["rna"][20:40].copy()
    ids.var_names = "ENSG" + ids.var_names
    query = concat_batches({"ids": {"rna": ids}, "symbols": {"rna": symbols}})
    if not recorded:
        del query["rna"].varm["measured"]
    with pytest.warns(UserWarning, match="'rna': no cell of batch 'ids'.*gene ids, symbols"):
        type(reference).load_query_data(query, reference)
