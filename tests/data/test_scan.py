"""One pass over the values: the same whatever the size of the blocks; and panels found in them."""

from dataclasses import asdict

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from mumask.data import _blocks, _panels
from mumask.data._panels import measured_though_unseen, recorded_panels
from mumask.data._scan import scan


@pytest.mark.parametrize("storage", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_of_rows_are_put_together(storage, masked, monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.poisson(0.7, (50, 4)).astype(np.float64)
    values[[7, 33], 0], values[[8, 41], 1], values[[9, 49], 2] = np.nan, -1.0, 0.5
    values[[3, 44]] = 0.0
    mask = rng.random(values.shape) < 0.7 if masked else None
    codes = rng.integers(0, 3, 50)
    whole = asdict(scan(storage(values), codes, 3, mask))
    assert [list(whole[name]) for name in ("nonfinite", "negative")] == [[7, 33], [8, 41]]
    assert {3, 44} <= set(whole["zero_rows"]) and {9, 49} <= set(whole["fractional"])
    monkeypatch.setattr(_blocks, "VALUES_PER_BLOCK", 20)
    parts = asdict(scan(storage(values), codes, 3, mask))
    for name, found in whole.items():
        np.testing.assert_array_equal(parts[name], found, err_msg=name)


@pytest.mark.parametrize("storage", [sp.csr_matrix, np.asarray])
def test_one_other_value_at_the_end_is_enough(storage, monkeypatch):
    monkeypatch.setattr(_blocks, "VALUES_PER_BLOCK", 20)
    values = np.eye(50)[:, :8] + np.eye(50)[:, -8:]
    assert _blocks.is_binary(storage(values))
    values[49, 7] = 2.0
    assert not _blocks.is_binary(storage(values))


def test_what_is_not_there_was_not_measured():
    adata = ad.AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["a", "b"]))
    adata.varm["measured"] = pd.DataFrame({"x": [True, False]}, index=adata.var_names)
    found = recorded_panels(adata, np.array(["new", "b", "a"]))
    assert found["x"].tolist() == [False, False, True]


def test_batches_share_the_chance_of_finding_fault(monkeypatch):
    """As many batches alike are judged as one of them at that part of the level."""
    rng = np.random.default_rng(0)
    seen = rng.integers(200, 400, 31)
    shown = rng.poisson(seen / 2)
    shown[30], differ = 0, 0
    for seen[30] in range(8, 60, 4):
        asked = shown == 0, shown, seen / 2, seen
        together = measured_though_unseen(*asked, n_batches=8)
        with monkeypatch.context() as patch:
            patch.setattr(_panels, "LEVEL", _panels.LEVEL / 8)
            strict = measured_though_unseen(*asked)
        np.testing.assert_array_equal(together, strict)
        differ += (measured_though_unseen(*asked) != strict).sum()
    assert differ > 0
