"""Modalities made from others: gene activity of peaks, counts of spatial neighbours."""

from __future__ import annotations

import tracemalloc

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import mumask

PEAKS = ["chr1:0-100", "chr1:900-1000", "chr1:2000-2500", "chr1:2500-2600", "chr2:10-20"]


@pytest.fixture
def peaks():
    x = sp.random(8, 5, 0.6, "csr", np.float32, np.random.default_rng(0))
    x.data[:] = 1
    atac = ad.AnnData(x, obs=pd.DataFrame(index=[f"c{i}" for i in range(8)]))
    atac.var_names = PEAKS
    rna = ad.AnnData(np.ones((4, 2)), obs=pd.DataFrame(index=[f"c{i}" for i in range(2, 6)]))
    return md.MuData({"rna": rna, "atac": atac})


def genes(**columns) -> pd.DataFrame:
    table = {"chromosome": ["chr1", "chr1", "chr9"], "start": [1500, 1500, 0]}
    table |= {"end": [2400, 2400, 5], "strand": ["+", "-", "+"], **columns}
    return pd.DataFrame(table, index=["plus", "minus", "nowhere"])


def test_activity_sums_peaks_in_and_before_a_gene(peaks):
    x = peaks["atac"].X.toarray()
    mumask.pp.gene_activity(peaks, genes(), upstream=600)
    activity = peaks["activity"]
    assert list(activity.var_names) == ["plus", "minus"]
    assert list(activity.var["n_peaks"]) == [2, 2]
    # before "plus" lies its start, before "minus" its end
    np.testing.assert_array_equal(activity[:, "plus"].X.toarray()[:, 0], x[:, 1] + x[:, 2])
    np.testing.assert_array_equal(activity[:, "minus"].X.toarray()[:, 0], x[:, 2] + x[:, 3])
    assert list(activity.obs_names) == list(peaks["atac"].obs_names)
    assert peaks.n_obs == 8


def test_places_from_columns_and_other_names(peaks):
    other = peaks.copy()
    mumask.pp.gene_activity(peaks, genes())
    other["atac"].var_names = [name.replace(":", "_").replace("-", "_") for name in PEAKS]
    mumask.pp.gene_activity(other, genes())
    assert (other["activity"].X != peaks["activity"].X).nnz == 0
    places = pd.Series(PEAKS).str.extract(r"(?P<chromosome>.+):(?P<start>\d+)-(?P<end>\d+)")
    other["atac"].var = places.set_axis([f"peak{i}" for i in range(5)], axis=0)
    mumask.pp.gene_activity(other, genes(), to_modality="again")
    assert (other["again"].X != peaks["activity"].X).nnz == 0


def test_overlaps_are_those_of_comparing_each_with_each():
    rng = np.random.default_rng(0)

    def places(n, longest, chromosomes):
        start = rng.integers(0, 300, n)
        return pd.DataFrame(
            {
                "chromosome": rng.choice(chromosomes, n),
                "start": start,
                "end": start + rng.integers(0, longest, n),
                "strand": rng.choice(["+", "-"], n),
            }
        )

    for _ in range(20):
        peaks, genes = places(60, 40, list("abc")), places(50, 80, list("bcd"))
        upstream = int(rng.integers(0, 30))
        minus = (genes["strand"] == "-").to_numpy()
        start = genes["start"].to_numpy() - np.where(minus, 0, upstream)
        end = genes["end"].to_numpy() + np.where(minus, upstream, 0)
        expected = (
            (peaks["chromosome"].to_numpy()[:, None] == genes["chromosome"].to_numpy())
            & (peaks["start"].to_numpy()[:, None] < end)
            & (peaks["end"].to_numpy()[:, None] > start)
        )
        found = mumask.pp._activity._overlap(peaks, genes, upstream)
        assert expected.any()
        np.testing.assert_array_equal(found.toarray(), expected)


def test_many_peaks_are_not_compared_with_all_regions():
    """20,000 peaks x 8,000 windows: a comparison of each with each takes 160 MB or more."""
    start = np.arange(20_000) * 400
    peaks = pd.DataFrame({"chromosome": "chr1", "start": start, "end": start + 300})
    genes = mumask.pp._activity._windows(peaks, 1000)
    tracemalloc.start()
    found = mumask.pp._activity._overlap(peaks, genes, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.nnz > 20_000
    assert peak < 30e6


def test_windows_where_there_is_no_annotation(peaks):
    mumask.pp.gene_activity(peaks, 1000)
    activity = peaks["activity"]
    assert list(activity.var_names) == ["chr1:0-1000", "chr1:2000-3000", "chr2:0-1000"]
    assert activity.X.sum() == peaks["atac"].X.sum()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"genes": genes().drop(columns="end")}, KeyError, "end"),
        ({"genes": genes(chromosome="X")}, ValueError, "same names"),
        ({"genes": pd.concat([genes(), genes()])}, ValueError, "twice"),
        ({"genes": 0}, ValueError, "positive"),
        ({"modality": "rna"}, ValueError, "no place"),
        ({"modality": "typo"}, KeyError, "typo"),
        ({"to_modality": "rna"}, ValueError, "already"),
    ],
)
def test_bad_activity(peaks, change, error, text):
    with pytest.raises(error, match=text):
        mumask.pp.gene_activity(peaks, **{"genes": genes(), **change})


def test_places_that_are_missing_are_named(peaks):
    numbers = pd.array([1500, None, 0], dtype="Int64")
    with pytest.raises(ValueError, match=r"`genes` has no number in 'start' for 'b' and 0 others"):
        mumask.pp.gene_activity(peaks, genes(start=numbers, end=3000).set_axis(list("abc")))
    peaks["atac"].var[["chromosome", "start", "end"]] = ["chr1", 1.0, np.nan]
    with pytest.raises(ValueError, match=r"'atac': var has no number in 'end' for 'chr1:0-100'"):
        mumask.pp.gene_activity(peaks, 1000)


@pytest.fixture
def placed():
    """Two sections of ten cells on a line each, at the same places; two cells without a place."""
    rng = np.random.default_rng(0)
    rna = ad.AnnData(sp.csr_matrix(rng.poisson(1.0, (22, 3)).astype(np.float32)))
    rna.obs_names, rna.var_names = [f"c{i}" for i in range(22)], ["a", "b", "c"]
    line = np.column_stack([np.arange(10), np.zeros(10)])
    rna.obsm["spatial"] = np.vstack([line, line, np.full((2, 2), np.nan)])
    mdata = md.MuData({"rna": rna})
    mdata.obs["section"] = ["s1"] * 10 + ["s2"] * 10 + ["dissociated"] * 2
    return mdata


def test_context_sums_the_neighbours_of_a_section(placed):
    x = placed["rna"].X.toarray()
    mumask.pp.spatial_context(placed, n_neighbors=2, batch_key="section")
    context = placed["context"]
    assert context.shape == (20, 3)
    assert list(context.var_names) == ["a_context", "b_context", "c_context"]
    np.testing.assert_array_equal(context["c4"].X.toarray()[0], x[3] + x[5])
    np.testing.assert_array_equal(context["c14"].X.toarray()[0], x[13] + x[15])
    np.testing.assert_array_equal(context["c10"].X.toarray()[0], x[11] + x[12])
    assert "c20" not in context.obs_names and placed.n_obs == 22


def test_cells_of_the_sections_may_come_in_any_order(placed):
    order = np.random.default_rng(1).permutation(placed.n_obs)
    mixed = md.MuData({"rna": placed["rna"][order].copy()})
    mixed.obs["section"] = placed.obs["section"].reindex(mixed.obs_names)
    for mdata in (placed, mixed):
        mumask.pp.spatial_context(mdata, n_neighbors=2, batch_key="section")
    one, other = placed["context"], mixed["context"][placed["context"].obs_names]
    np.testing.assert_array_equal(one.X.toarray(), other.X.toarray())
    np.testing.assert_array_equal(one.obsm["spatial"], other.obsm["spatial"])


def test_cells_without_a_place_lack_the_context_in_a_model(placed):
    mumask.pp.spatial_context(placed, n_neighbors=3, batch_key="section")
    mumask.MaskedVAE.setup_mudata(placed)
    model = mumask.MaskedVAE(placed, n_latent=2, n_hidden=8)
    model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.impute()["context"].obs["imputed"].sum() == 2


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"key": "typo"}, KeyError, "typo"),
        ({"n_neighbors": 10}, ValueError, "10 cells"),
        ({"n_neighbors": 0}, ValueError, "at least 1"),
        ({"batch_key": "typo"}, KeyError, "typo"),
        ({"to_modality": "rna"}, ValueError, "already"),
    ],
)
def test_bad_context(placed, change, error, text):
    with pytest.raises(error, match=text):
        mumask.pp.spatial_context(placed, **{"batch_key": "section", "n_neighbors": 2, **change})


def test_panels_of_what_is_summed_are_kept(peaks, placed):
    atac, rna = peaks["atac"], placed["rna"]
    rna = mumask.pp.concat_batches({"s1": rna[:10].copy(), "s2": rna[10:20, ["c", "a"]].copy()})
    mumask.pp.spatial_context(rna, n_neighbors=2, batch_key="batch")
    recorded = mumask.pp.panels(rna)["context"]
    assert recorded == {f"s{i}": [f"{g}_context" for g in p] for i, p in ((1, "abc"), (2, "ac"))}
    atac = {"one": {"atac": atac[:4].copy()}, "two": {"atac": atac[4:, [0, 2]].copy()}}
    joined = mumask.pp.concat_batches(atac)
    mumask.pp.gene_activity(joined, 1000)
    windows = ["chr1:0-1000", "chr1:2000-3000", "chr2:0-1000"]
    assert mumask.pp.panels(joined)["activity"] == {"one": windows, "two": windows[:2]}
