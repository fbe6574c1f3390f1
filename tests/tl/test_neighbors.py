"""Imputation from neighbours: which cells are averaged, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData, read_h5mu
from scipy import sparse
from scipy.spatial.distance import cdist

from mumask.tl import impute_from_neighbors

N, K = 40, 5


@pytest.fixture
def data():
    """Reference of which every other cell has proteins, rows of the modality in another order."""
    rng = np.random.default_rng(0)
    names = [f"r{i}" for i in range(N)]
    rna = AnnData(np.ones((N, 3), np.float32), obs=pd.DataFrame(index=names))
    having = rng.permutation(names[::2])
    values = rng.poisson(4, (N // 2, 4)).astype(np.float32)
    protein = AnnData(sparse.csr_matrix(values), obs=pd.DataFrame(index=having))
    protein.var_names = [f"p{i}" for i in range(4)]
    protein.layers["log"] = np.log1p(values)
    reference = MuData({"rna": rna, "protein": protein})
    reference.obsm["X_mumask"] = rng.normal(size=(N, 2))
    asked = AnnData(
        np.ones((7, 3), np.float32), obs=pd.DataFrame(index=[f"q{i}" for i in "gfedcba"])
    )
    query = MuData({"rna": asked})
    query.obsm["X_mumask"] = rng.normal(size=(7, 2))
    return query, reference


@pytest.mark.parametrize("layer", [None, "log"])
def test_mean_of_the_nearest_cells_that_have_the_modality(data, layer, unchanged):
    query, reference = data
    checks = [unchanged(mdata) for mdata in data]
    imputed = impute_from_neighbors(query, reference, "protein", layer=layer, n_neighbors=K)
    for check in checks:
        check()
    protein = reference["protein"]
    values = protein.to_df(layer)
    places = pd.DataFrame(reference.obsm["X_mumask"], reference.obs_names).loc[protein.obs_names]
    assert list(imputed.index) == list(query.obs_names)
    assert list(imputed.columns) == list(protein.var_names)
    for i, cell in enumerate(query.obs_names):
        distance = ((places - query.obsm["X_mumask"][i]) ** 2).sum(axis=1)
        expected = values.loc[distance.nsmallest(K).index].mean()
        np.testing.assert_allclose(imputed.loc[cell], expected, rtol=1e-5)
    some = impute_from_neighbors(
        query, reference, "protein", layer=layer, n_neighbors=K, features=["p3", "p1"]
    )
    pd.testing.assert_frame_equal(some, imputed[["p3", "p1"]])


def test_order_of_the_reference_does_not_matter(data):
    query, reference = data
    shuffled = reference[np.random.default_rng(1).permutation(N)].copy()
    one, other = (
        impute_from_neighbors(query, mdata, "protein", n_neighbors=K)
        for mdata in (reference, shuffled)
    )
    pd.testing.assert_frame_equal(one, other)


def test_what_is_refused(data):
    query, reference = data

    def says(error, match, query=query, reference=reference, modality="protein", **options):
        with pytest.raises(error, match=match):
            impute_from_neighbors(query, reference, modality, **options)

    says(KeyError, "no modality 'atac'.*'protein'", modality="atac")
    says(KeyError, "no 'p9'", features=["p1", "p9"])
    says(KeyError, "query has no 'X_pca'", use_rep="X_pca")
    says(ValueError, "only 20 cells", n_neighbors=21)
    says(ValueError, "`n_neighbors` is 0; at least 1", n_neighbors=0)
    lost = query.copy()
    lost.obsm["X_mumask"][2] = np.nan
    says(ValueError, "1 cells of the query.*'qe'", query=lost, n_neighbors=K)
    flat = query.copy()
    flat.obsm["X_mumask"] = flat.obsm["X_mumask"][:, :1]
    says(ValueError, "1 dimensions in the query and 2", query=flat, n_neighbors=K)
    double = reference.copy()
    double["protein"].var_names = ["p0", *double["protein"].var_names[:-1]]
    says(ValueError, "more than once in modality 'protein': 'p0'", reference=double)


def test_panels_of_the_batches_that_are_there(data):
    query, reference = data
    protein = reference["protein"]
    protein.varm["measured"] = pd.DataFrame(
        {"a": [True] * 4, "b": [True, False, True, True]}, index=protein.var_names
    )
    reference.obs["batch"] = np.where(np.arange(N) < N // 2, "a", "b")
    with pytest.raises(ValueError, match="Not every batch.*measured 'p1'"):
        impute_from_neighbors(query, reference, "protein", n_neighbors=K)
    shared = {"features": ["p0", "p2"], "n_neighbors": K}
    assert impute_from_neighbors(query, reference, "protein", **shared).shape == (7, 2)
    only = reference[(reference.obs["batch"] == "a").to_numpy()].copy()
    assert impute_from_neighbors(query, only, "protein", n_neighbors=K).shape == (7, 4)


def test_reference_cells_without_the_modality_need_no_place(data):
    query, reference = data
    before = impute_from_neighbors(query, reference, "protein", n_neighbors=K)
    absent = ~reference.obs_names.isin(reference["protein"].obs_names)
    reference.obsm["X_mumask"][absent] = np.nan
    after = impute_from_neighbors(query, reference, "protein", n_neighbors=K)
    pd.testing.assert_frame_equal(before, after)


def test_no_cell_is_its_own_neighbour(data):
    _, mdata = data
    cells = mdata["protein"].obs_names
    places = mdata.obsm["X_mumask"][mdata.obs_names.get_indexer(cells)]
    distances = cdist(places, places)
    np.fill_diagonal(distances, np.inf)
    nearest = mdata["protein"].to_df().iloc[distances.argmin(axis=1)]
    imputed = impute_from_neighbors(mdata, mdata, "protein", n_neighbors=1)
    np.testing.assert_allclose(imputed.loc[cells], nearest)
    with pytest.raises(ValueError, match=f"only {len(cells) - 1} cells"):
        impute_from_neighbors(mdata, mdata, "protein", n_neighbors=len(cells))


@pytest.mark.parametrize("features", [None, ["p3", "p1"]])  # not in the order of the file
@pytest.mark.parametrize("storage", [sparse.csr_matrix, np.asarray])
def test_a_reference_in_a_file(data, tmp_path, storage, features):
    query, reference = data
    reference["protein"].X = storage(reference["protein"].X.toarray())
    options = {"n_neighbors": K, "features": features}
    expected = impute_from_neighbors(query, reference, "protein", **options)
    reference.write(tmp_path / "reference.h5mu")
    backed = read_h5mu(tmp_path / "reference.h5mu", backed="r")
    pd.testing.assert_frame_equal(
        impute_from_neighbors(query, backed, "protein", **options), expected
    )


def test_reference_is_a_mosaic(data):
    query, reference = data
    with pytest.raises(TypeError, match="Expected a MuData, got AnnData"):
        impute_from_neighbors(query, reference["protein"], "protein")
    with pytest.raises(TypeError, match="Expected a MuData, got AnnData"):
        impute_from_neighbors(query[query.mod_names[0]], reference, "protein")
