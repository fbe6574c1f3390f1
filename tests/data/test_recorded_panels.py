"""Panels that came with the data: what was recorded is used, and missed where a batch was renamed."""

from __future__ import annotations

import warnings

import mudata as md
import numpy as np
import pandas as pd
import pytest

from mumask import MaskedVAE
from mumask.data import measured_by_all


def state_of(manager, modality) -> dict:
    return manager.registry["field_registries"][f"X_{modality}"]["state_registry"]


@pytest.fixture
def recorded(mosaic, with_panel) -> md.MuData:
    """`cite` measured proteins 3 to 5, as recorded; the counts alone would say 2 to 5."""
    table = pd.DataFrame(True, index=mosaic["protein"].var_names, columns=["cite", "asap"])
    table.loc[table.index[:3], "cite"] = False
    mosaic = with_panel(mosaic)
    mosaic["protein"].varm["measured"] = table
    return mosaic


def test_a_record_is_used_and_beats_the_guess(recorded, manager_of):
    panel = state_of(manager_of(recorded), "protein")["panel"]
    np.testing.assert_array_equal(panel[1], [False] * 3 + [True] * 3)
    assert panel[[0, 2]].all()


def test_a_record_of_zeros_and_ones_is_one(recorded, manager_of):
    """As a table comes out of a text file."""
    before = state_of(manager_of(recorded), "protein")["panel"]
    recorded["protein"].varm["measured"] = recorded["protein"].varm["measured"].astype(int)
    np.testing.assert_array_equal(state_of(manager_of(recorded), "protein")["panel"], before)


def test_batches_without_a_record_are_guessed(recorded, manager_of):
    recorded["protein"].varm["measured"] = recorded["protein"].varm["measured"][["asap"]]
    panel = state_of(manager_of(recorded), "protein")["panel"]
    np.testing.assert_array_equal(panel[1], [False] * 2 + [True] * 4)


def test_what_is_given_beats_the_record(recorded, manager_of):
    panels = {"protein": {"cite": ["protein5"]}}
    panel = state_of(manager_of(recorded, panels=panels), "protein")["panel"]
    np.testing.assert_array_equal(panel[1], [False] * 5 + [True])
    assert state_of(manager_of(recorded, panels={"protein": {}}), "protein")["panel"].all()


def test_a_record_of_other_batches_is_said_to_be_unused(recorded, manager_of):
    with pytest.warns(UserWarning, match=r"\['cite', 'asap'\].*pass it as `batch_key`"):
        manager_of(recorded, batch_key="site")


def test_a_users_own_entry_is_no_record(mosaic, manager_of):
    mosaic["protein"].varm["measured"] = np.zeros((6, 2))
    assert state_of(manager_of(mosaic), "protein")["panel"].all()


def test_the_panel_of_a_renamed_batch_is_missed(recorded, manager_of):
    """The way out that is named brings it back."""
    batch = recorded.obs["batch"] = recorded.obs["batch"].astype(str).replace("cite", "donor 3")
    with pytest.warns(UserWarning, match=r"for \['cite'\].*but not for \['donor 3'\]"):
        manager_of(recorded)
    with pytest.warns(UserWarning, match=r"for \['cite'\].*but not for \['donor 3'\]"):
        measured_by_all(recorded, "protein", batch.index[batch == "donor 3"], "batch")
    table = recorded["protein"].varm["measured"]
    recorded["protein"].varm["measured"] = table.rename(columns={"cite": "donor 3"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panel = state_of(manager_of(recorded), "protein")["panel"]
    np.testing.assert_array_equal(panel[1], [False] * 3 + [True] * 3)


@pytest.mark.parametrize(("name", "warned"), [("cite", False), ("new", True)])
def test_the_panel_of_a_renamed_query_is_missed(recorded, name, warned):
    MaskedVAE.setup_mudata(recorded, batch_key="batch")
    reference = MaskedVAE(recorded)
    reference.is_trained_ = True
    cite = recorded.obs_names[recorded.obs["batch"] == "cite"]
    query = md.MuData(
        {m: recorded[m][recorded[m].obs_names.isin(cite)].copy() for m in ("rna", "protein")}
    )
    query.obs["batch"] = name
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        MaskedVAE.load_query_data(query, reference)
    assert any("['cite', 'asap']" in str(warning.message) for warning in said) == warned
