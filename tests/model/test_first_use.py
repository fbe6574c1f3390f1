"""What users do with data and models before they know better: it works, or says what to do."""

from __future__ import annotations

import logging

import mudata as md
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import scvi

from mumask import CrossAttentionMAE, MaskedVAE
from mumask.pp import concat_batches


@pytest.fixture(scope="module")
def model(make_mosaic, fit):
    return fit(make_mosaic(), setup={"labels_key": "cell_type"}, epochs=2)


def of_batch(mosaic, batch: str, modalities) -> md.MuData:
    """Cells of a batch, with all these modalities, be it without a cell."""
    names = mosaic.obs_names[mosaic.obs["batch"] == batch]
    part = md.MuData({m: mosaic[m][mosaic[m].obs_names.isin(names)].copy() for m in modalities})
    part.obs["batch"] = batch
    return part


@pytest.mark.parametrize("cls", [MaskedVAE, CrossAttentionMAE])
def test_a_modality_without_cells_is_generated(make_mosaic, cls, caplog):
    """As one that is not there: its totals are those that the model expects."""
    mosaic = make_mosaic()
    cls.setup_mudata(mosaic, batch_key="batch")
    reference = cls(mosaic)
    reference.train(max_epochs=2, enable_progress_bar=False, accelerator="cpu")
    expected, found = (
        cls.load_query_data(of_batch(mosaic, "solo", modalities), reference)
        for modalities in (["rna"], ["rna", "protein"])
    )
    with caplog.at_level(logging.INFO, logger="mumask"):
        cls.load_query_data(of_batch(mosaic, "solo", ["rna", "protein"]), reference)
    assert "'rna': the query measured" in caplog.text
    assert "'protein': the query measured" not in caplog.text
    expected, found = (q.get_normalized_expression(modality="protein") for q in (expected, found))
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(("modality", "kind"), [("rna", "count"), ("atac", "binary")])
def test_values_changed_in_place_are_noticed(make_mosaic, fit, modality, kind):
    mosaic = make_mosaic()
    model = fit(mosaic, setup={"likelihoods": {"atac": "bernoulli"}}, epochs=1)
    if kind == "count":
        sc.pp.normalize_total(mosaic["rna"])
        sc.pp.log1p(mosaic["rna"])
    else:
        mosaic["atac"].X = 2 * mosaic["atac"].X
    for ask in (model.get_latent_representation, model.impute, lambda: model.train(max_epochs=1)):
        with pytest.raises(ValueError, match=f"'{modality}' no longer holds the {kind} values"):
            ask()


def test_labels_that_are_missing_are_unlabelled(make_mosaic, fit, unchanged):
    marked, missing = make_mosaic(), make_mosaic()
    missing.obs["some_labels"] = missing.obs["some_labels"].replace("Unknown", np.nan)
    check = unchanged(missing)
    setup = {"labels_key": "some_labels"}
    marked = fit(marked, setup=setup, epochs=1)
    scvi.settings.seed = 0
    missing = fit(missing, setup={**setup, "unlabeled_category": "?"}, epochs=1)
    check()
    assert missing.classes == marked.classes == [f"type{i}" for i in range(4)]
    pd.testing.assert_frame_equal(missing.predict(soft=True), marked.predict(soft=True))


def test_counts_of_a_query_in_another_place(make_mosaic, fit):
    mosaic = make_mosaic()
    mosaic["rna"].layers["counts"] = mosaic["rna"].X
    reference = fit(mosaic, setup={"layers": {"rna": "counts"}}, epochs=1)
    query = of_batch(make_mosaic(), "solo", ["rna"])
    with pytest.raises(KeyError, match=r"mdata\['rna'\].layers\['counts'\] = mdata\['rna'\].X"):
        MaskedVAE.load_query_data(query, reference)
    query["rna"].layers["counts"] = query["rna"].X
    MaskedVAE.load_query_data(query, reference)


def test_a_modality_that_lost_its_features(model):
    subset = of_batch(model.adata, "cite", ["rna", "protein"])
    subset.mod["protein"] = subset["protein"][:, []].copy()
    for ask in (lambda: MaskedVAE.load_query_data(subset, model), lambda: model.predict(subset)):
        with pytest.raises(
            ValueError, match=r"'protein' has 30 cells but no feature.*leave it out"
        ):
            ask()


def test_parts_of_a_mosaic_can_be_joined_again(make_mosaic):
    mosaic = make_mosaic()
    parts = {b: of_batch(mosaic, b, ["rna", "protein", "atac"]) for b in ("cite", "asap", "solo")}
    joined = concat_batches(parts)
    assert {name: joined[name].n_obs for name in joined.mod} == {
        "rna": 60,
        "protein": 60,
        "atac": 30,
    }
    del parts["cite"]["rna"].X
    with pytest.raises(ValueError, match="'cite', modality 'rna' has no X"):
        concat_batches(parts)


def test_cells_in_sets_and_in_columns_with_gaps(model):
    names = set(model.adata.obs_names[:5])
    assert set(model.predict(indices=names).index) == names
    flags = pd.Series([True, pd.NA] * 45, index=model.adata.obs_names, dtype="boolean")
    with pytest.raises(ValueError, match=r"`indices` has missing entries: .fillna\(False\)"):
        model.predict(indices=flags)


def test_the_original_of_a_registered_copy(make_mosaic):
    mosaic = make_mosaic()
    MaskedVAE.setup_mudata(mosaic, batch_key="batch")
    copied = mosaic.copy()
    MaskedVAE.setup_mudata(copied, batch_key="batch")
    with pytest.raises(ValueError, match="Another copy.*setup_mudata.*for this one"):
        MaskedVAE(mosaic)
    MaskedVAE(copied)


def test_batches_to_compare_as(model):
    with pytest.raises(ValueError, match="`batchid1` needs `batch_correction`=True"):
        model.differential_expression(groupby="cell_type", batchid1=["cite"])


def test_batches_are_compared_in_one_order(model):
    """And not in that of a set of names, which differs between processes."""
    asked, decode = [], model.get_normalized_expression

    def watch(*arguments, transform_batch, **options):
        asked.append(transform_batch)
        return decode(*arguments, transform_batch=transform_batch, **options)

    model.get_normalized_expression = watch
    try:
        one, two = (
            model.differential_expression(
                groupby="cell_type", group1="type0", batch_correction=True, silent=True, **ids
            )
            for ids in ({}, {"batchid1": ["cite"], "batchid2": ["asap"]})
        )
    finally:
        del model.get_normalized_expression
    n = len(model.batches)
    assert asked[: 2 * n] == 2 * model.batches
    assert asked[2 * n :] == ["cite", "asap"]
    assert len(one) == len(two) == 14


def test_sparse_places_of_cells_are_kept(make_mosaic, fit):
    mosaic = make_mosaic()
    rna = mosaic["rna"]
    rna.obsm["places"] = sp.random(rna.n_obs, 3, 0.5, format="csr", random_state=0)
    complete = fit(mosaic, epochs=1).impute()["rna"]
    expected = pd.DataFrame(rna.obsm["places"].toarray(), rna.obs_names)
    np.testing.assert_allclose(complete.obsm["places"], expected.reindex(complete.obs_names))


def test_yes_or_no_in_obsm_is_kept(mosaic, fit):
    """As it is where every cell has the modality, else with gaps."""
    model = fit(mosaic, epochs=1)
    rna = model.adata["rna"]
    rna.obsm["kept"] = np.random.default_rng(0).random((rna.n_obs, 2)) < 0.5
    complete = model.impute()["rna"]
    expected = pd.DataFrame(rna.obsm["kept"], rna.obs_names).reindex(complete.obs_names)
    np.testing.assert_array_equal(complete.obsm["kept"], expected.to_numpy(float))
    complete = model.impute(indices=list(rna.obs_names[:3]))["rna"]
    assert complete.obsm["kept"].dtype == bool
    np.testing.assert_array_equal(complete.obsm["kept"], rna.obsm["kept"][:3])


@pytest.mark.parametrize("size", [{"n_latent": 0}, {"n_layers": -1}, {"n_hidden": 0}])
def test_sizes_below_the_least(mosaic, size):
    MaskedVAE.setup_mudata(mosaic)
    with pytest.raises(ValueError, match=f"`{next(iter(size))}`.*choose at least"):
        MaskedVAE(mosaic, **size)


def test_a_token_size_for_all(mosaic):
    CrossAttentionMAE.setup_mudata(mosaic)
    with pytest.raises(TypeError, match=r"token_size=\{'rna': 3\}"):
        CrossAttentionMAE(mosaic, token_size=3)


def test_a_mudata_within_a_mudata(mosaic):
    nested = md.MuData({"inner": md.MuData({"rna": mosaic["rna"].copy()})})
    with pytest.raises(TypeError, match="'inner' is a MuData itself"):
        MaskedVAE.setup_mudata(nested)
