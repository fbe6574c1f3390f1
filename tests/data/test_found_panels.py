"""Panels found in the data, where a batch holds one cell type."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from mumask.data._found_panels import find_panels
from mumask.data._panels import find_panel

N_GENES, N_TYPES = 300, 4
OF_ALL, OWN = slice(0, 100), 100 + np.arange(200) % N_TYPES  # type of every marker gene


def counts(rng, types: np.ndarray, depth: float = 1.0) -> np.ndarray:
    """Every type has 50 genes of its own, which others do not show."""
    rates = np.full((N_TYPES, N_GENES), 0.0)
    rates[:, OF_ALL] = 0.4
    rates[:, 100:] = 0.8 * (OWN == 100 + np.arange(N_TYPES)[:, None])
    return rng.poisson(depth * rates[types]).astype("float32")


@pytest.fixture(scope="module")
def sorted_batch():
    """Batch 1 is of type 0 alone, at another depth; batch 0 of all types."""
    rng = np.random.default_rng(0)
    types = np.r_[rng.integers(0, N_TYPES, 800), np.zeros(120, int)]
    batch = np.r_[np.zeros(800, int), np.ones(120, int)]
    values = np.concatenate([counts(rng, types[:800]), counts(rng, types[800:], depth=0.6)])
    return values, batch


def shown(values, batch) -> np.ndarray:
    return np.stack([(values[batch == b] != 0).sum(axis=0) for b in range(batch.max() + 1)])


def test_marker_genes_of_other_types_were_measured(sorted_batch):
    values, batch = sorted_batch
    by_rate = find_panel(shown(values, batch), np.bincount(batch))
    assert (~by_rate[1]).sum() == 150, "rates of all cells together would do"
    assert find_panels(sp.csr_matrix(values), batch, shown(values, batch)).all()


def test_genes_that_like_cells_have_were_not_measured(sorted_batch):
    values, batch = sorted_batch
    values = values.copy()
    hidden = np.r_[np.arange(10), 100 + np.flatnonzero(OWN == 100)[:10]]
    values[np.ix_(batch == 1, hidden)] = 0
    panel = find_panels(sp.csr_matrix(values), batch, shown(values, batch))
    assert panel[0].all()
    np.testing.assert_array_equal(np.flatnonzero(~panel[1]), hidden)


def test_where_most_is_absent_what_is_silent_is_absent_too(sorted_batch):
    """A panel of a tenth of the genes, all of type 0 or of all types."""
    values, batch = sorted_batch
    values, kept = values.copy(), np.r_[np.arange(15), 100 + np.flatnonzero(OWN == 100)[:15]]
    values[np.ix_(batch == 1, np.setdiff1d(np.arange(N_GENES), kept))] = 0
    panel = find_panels(sp.csr_matrix(values), batch, shown(values, batch))
    np.testing.assert_array_equal(np.flatnonzero(panel[1]), kept)


def test_elements_that_were_not_measured_say_nothing(sorted_batch):
    """Whatever is stored there: like cells of the other batch are those that measured the same."""
    values, batch = sorted_batch
    values, mask = values.copy(), np.ones(values.shape, dtype=bool)
    mask[batch == 1, :20] = False
    wild = values.copy()
    wild[~mask] = 9
    panels = [find_panels(v, batch, shown(values * mask, batch), mask) for v in (values, wild)]
    np.testing.assert_array_equal(*panels)


@pytest.mark.parametrize("storage", ["dense", "csc", "h5ad", "zarr"])
def test_any_storage(sorted_batch, storage, tmp_path):
    values, batch = sorted_batch
    values = values.copy()
    values[batch == 1, :10] = 0
    adata = ad.AnnData(sp.csr_matrix(values))
    if storage == "h5ad":
        adata.write_h5ad(tmp_path / "a.h5ad")
        matrix = ad.read_h5ad(tmp_path / "a.h5ad", backed="r").X
    elif storage == "zarr":
        adata.write_zarr(tmp_path / "a.zarr")
        matrix = ad.io.sparse_dataset(zarr.open(tmp_path / "a.zarr")["X"])
    else:
        matrix = values if storage == "dense" else sp.csc_matrix(values)
    panel = find_panels(matrix, batch, shown(values, batch))
    np.testing.assert_array_equal(np.flatnonzero(~panel[1]), np.arange(10))


def test_one_batch_and_a_batch_of_nothing(sorted_batch):
    values, batch = sorted_batch
    one = np.zeros(len(batch), int)
    assert find_panels(values, one, shown(values, one)).all()
    values = values.copy()
    values[batch == 1] = 0
    assert find_panels(values, batch, shown(values, batch))[0].all()


def test_a_batch_is_registered_with_the_panel_of_its_type(sorted_batch, manager_of):
    values, batch = sorted_batch
    mdata = md.MuData({"rna": ad.AnnData(sp.csr_matrix(values))})
    mdata.obs["batch"] = np.array(["all", "sorted"])[batch]
    state = manager_of(mdata)._state("X_rna")
    assert state["panel"].all()


@pytest.mark.real
def test_clusters_of_pbmc10k(real_data):
    """Half of a cluster as a batch of its own: nearly all genes were measured."""
    mdata = md.read_h5mu(real_data / "pbmc10k_citeseq.h5mu")
    rna = mdata["rna"]
    clusters = mdata.obs["wnn_cluster"].loc[rna.obs_names].astype(str).to_numpy()
    rng, X = np.random.default_rng(0), sp.csr_matrix(rna.X)
    lost_by_rate = []
    for cluster in ("0", "4", "8", "15"):
        batch = ((clusters == cluster) & (rng.random(len(clusters)) < 0.5)).astype(int)
        nonzero = np.stack([np.ravel((X[batch == b] != 0).sum(axis=0)) for b in (0, 1)])
        lost_by_rate.append((~find_panel(nonzero, np.bincount(batch))).sum())
        assert (~find_panels(X, batch, nonzero)).sum() <= 2
    assert min(lost_by_rate) > 100
