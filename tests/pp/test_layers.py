"""Where values are read from: a layer that is named, and what is counted in them."""

import numpy as np
import pytest
import scipy.sparse as sp

from mumask import datasets, pp, tl

# few features are kept here, and some cells have none of them
pytestmark = pytest.mark.filterwarnings("ignore:.*have no count in any of")


@pytest.fixture
def simulated():
    mdata = datasets.simulate_mosaic(60, n_features={"rna": 100, "protein": 12, "atac": 120})
    mdata["atac"].var_names = [f"chr1:{500 * i}-{500 * i + 200}" for i in range(120)]
    rng = np.random.default_rng(0)
    mdata["rna"].obsm["spatial"] = rng.uniform(size=(mdata["rna"].n_obs, 2))
    return mdata


READERS = {
    "lognorm": lambda m, layer: pp.lognorm(m, layer=layer) or m["rna"].layers["lognorm"],
    "clr": lambda m, layer: pp.clr(m, layer=layer) or m["protein"].layers["clr"],
    "tfidf": lambda m, layer: pp.tfidf(m, layer=layer) or m["atac"].layers["tfidf"],
    "binarize": lambda m, layer: (
        pp.binarize(m, layer=layer, to_layer="on") or m["atac"].layers["on"]
    ),
    "gene_activity": lambda m, layer: pp.gene_activity(m, 5000, layer=layer) or m["activity"].X,
    "spatial_context": lambda m, layer: (
        pp.spatial_context(m, n_neighbors=5, layer=layer) or m["context"].X
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_layer_is_read_in_the_place_of_x(name, simulated):
    moved = simulated.copy()
    for adata in moved.mod.values():
        adata.layers["raw"] = adata.X
        adata.X = sp.csr_matrix(adata.X[:, ::-1])
    expected, found = READERS[name](simulated, None), READERS[name](moved, "raw")
    np.testing.assert_array_equal(found.toarray(), expected.toarray())


@pytest.mark.parametrize(("modality", "flavor"), [("rna", "seurat"), ("atac", "frequency")])
def test_features_are_ranked_by_the_layer(modality, flavor, simulated):
    expected = pp.select_features(simulated, modality, 20, flavor=flavor)[modality].var_names
    adata = simulated[modality]
    adata.layers["raw"] = adata.X
    adata.X = sp.csr_matrix(adata.X[:, ::-1])
    chosen = pp.select_features(simulated, modality, 20, flavor=flavor, layer="raw")[modality]
    assert list(chosen.var_names) == list(expected)


def test_frequent_is_what_many_cells_have_however_much_of_it(simulated):
    atac = simulated["atac"]
    found = np.ravel((atac.X > 0).sum(axis=0))
    rare = np.argmin(found)
    counts = atac.X.tolil()
    counts[np.flatnonzero(counts[:, [rare]].toarray()), rare] = 1000.0
    atac.X = counts.tocsr()
    chosen = pp.select_features(simulated, "atac", 20)["atac"].var_names
    assert atac.var_names[rare] not in chosen
    assert found[atac.var_names.get_indexer(chosen)].min() >= np.sort(found)[-20]


def test_counts_that_lie_beside_the_peaks_stay(simulated):
    atac = simulated["atac"]
    atac.layers["counts"] = 3 * atac.X
    atac.X = 2 * atac.X
    ready = pp.prepare(simulated, n_top_peaks=50)["atac"]
    assert set(ready.X.data) == {1.0} and set(ready.layers["counts"].data) == {3.0}


def in_parts(matrix) -> sp.csr_matrix:
    """Counts with every element stored as so many ones, as some readers of files leave them."""
    cells = sp.csr_matrix(matrix).tocoo()
    order = np.lexsort((cells.col, cells.row))
    times = cells.data[order].astype(int)
    rows, columns = (np.repeat(index[order], times) for index in (cells.row, cells.col))
    starts = np.searchsorted(rows, np.arange(matrix.shape[0] + 1))
    return sp.csr_matrix((np.ones(len(rows), np.float32), columns, starts), matrix.shape)


@pytest.mark.parametrize("name", [*READERS, "select", "markers"])
def test_an_element_in_parts_is_their_sum(name, simulated):
    functions = READERS | {
        "select": lambda m, _: pp.select_features(m, n_top=20)["rna"].X,
        "markers": lambda m, _: tl.rank_markers(m, "cell_type")[["pval", "share_in"]].to_numpy(),
    }
    simulated["atac"].X = simulated["atac"].X * 2
    apart = simulated.copy()
    for adata in apart.mod.values():
        adata.X = in_parts(adata.X)
        stored = adata.X.nnz
    found, expected = functions[name](apart, None), functions[name](simulated, None)
    found, expected = (x.toarray() if sp.issparse(x) else x for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert apart["atac"].X.nnz == stored  # those of the user stay as they are


def test_without_x_the_layers_are_named(simulated):
    rna = simulated["rna"]
    rna.layers["raw"] = rna.X.copy()
    del rna.X
    for step in (
        lambda: pp.select_features(simulated, "rna", 3),
        lambda: pp.spatial_context(simulated, n_neighbors=3),
        lambda: pp.lognorm(simulated),
    ):
        with pytest.raises(ValueError, match=r"no X. Name the layer to read, of \['raw'\]"):
            step()
