"""Categories are known by their names, whether a table holds them as integers, floats or text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mumask
from mumask.data import category_names


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 0], ["1", "0"]),
        ([1.0, 0.0], ["1", "0"]),
        (np.array([1, 0], np.float32), ["1", "0"]),
        (pd.Categorical([1.0, 0.0]), ["1", "0"]),
        (pd.array([1, 0], dtype="Int64"), ["1", "0"]),
        (["1.0", "b"], ["1.0", "b"]),  # text is the user's own
        ([1.5, -np.inf], ["1.5", "-inf"]),
        ([True, False], ["True", "False"]),
        ([2.0, np.nan], ["2", "nan"]),
    ],
)
def test_names(values, names):
    assert category_names(pd.Series(values)).tolist() == names


@pytest.mark.parametrize("kind", [int, float, str])
def test_a_query_names_its_batches_in_another_type(kind):
    """Joining tables turns the batches 0 and 1 into 0.0 and 1.0; they are the same batches."""
    mdata = mumask.datasets.simulate_mosaic(
        30,
        {"a": ("rna",), "b": ("rna", "protein")},
        n_features={"rna": 40, "protein": 5},
        panels={"a": {"rna": 0.5}},
    )
    number = {"a": 0, "b": 1}
    mdata["rna"].varm["measured"] = mdata["rna"].varm["measured"].rename(columns=number)
    mdata.obs["number"] = mdata.obs["batch"].map(number).astype(kind)
    mumask.MaskedVAE.setup_mudata(mdata, batch_key="number")
    model = mumask.MaskedVAE(mdata, n_hidden=8, n_latent=3)
    assert model.batches == ["0", "1"]
    assert model.module.panel_rna.sum(dim=1).tolist() == [20, 40]
    assert {b: len(f) for b, f in mumask.pp.panels(mdata, "number")["rna"].items()} == {
        "0": 20,
        "1": 40,
    }
    model.train(max_epochs=1, enable_progress_bar=False)
    seen = model.get_normalized_expression(transform_batch=kind(1))
    query = mdata.copy()
    query.obs["number"] = mdata.obs["batch"].map(number).astype(float)
    mapped = mumask.MaskedVAE.load_query_data(query, model)
    assert mapped.batches == ["0", "1"]
    again = mapped.get_normalized_expression(transform_batch=1.0)
    pd.testing.assert_frame_equal(again.loc[seen.index], seen, rtol=1e-5)
