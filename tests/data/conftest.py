"""Helpers of the data tests, as fixtures."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp

from mumask import MaskedVAE


def _manager_of(mdata, **setup):
    MaskedVAE.setup_mudata(mdata, **{"batch_key": "batch", **setup})
    return MaskedVAE._get_most_recent_anndata_manager(mdata, required=True)


@pytest.fixture
def manager_of():
    """Register a MuData; the manager."""
    return _manager_of


@pytest.fixture
def by_name():
    """The minibatch of the named cells, dense."""

    def load(mdata, names, **setup) -> dict[str, np.ndarray]:
        cells = mdata.obs_names.get_indexer(names)
        batch = _manager_of(mdata, **setup).create_torch_dataset()[cells]
        return {k: v.to_dense().numpy() for k, v in batch.items()}

    return load


@pytest.fixture
def assert_same_batch():
    """Both minibatches hold the same arrays."""

    def compare(one, other):
        assert set(one) == set(other)
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)

    return compare


@pytest.fixture
def rebuilt():
    """The same cells with every modality changed."""

    def build(mdata, change) -> md.MuData:
        fresh = md.MuData({k: change(v.copy()) for k, v in mdata.mod.items()})
        for column in mdata.obs:
            fresh.obs[column] = mdata.obs[column].reindex(fresh.obs_names)
        return fresh

    return build


@pytest.fixture
def names(mosaic):
    """Some cells of all batches in an order of their own."""
    return mosaic.obs_names[np.random.default_rng(1).permutation(mosaic.n_obs)[:40]]


def _with_panel(mdata, batch="cite", missing=(0, 1)) -> md.MuData:
    cells = mdata.obs_names[(mdata.obs["batch"] == batch).to_numpy()]
    protein = mdata["protein"]
    rows = protein.obs_names.isin(cells)
    x = protein.X.toarray()
    x[np.ix_(rows, missing)] = 0
    x[rows, 5] += 1  # no cell becomes empty
    protein.X = sp.csr_matrix(x)
    return mdata


@pytest.fixture
def with_panel():
    """Zeros at two proteins in all cells of a batch."""
    return _with_panel
