"""Which labels a label head learns, and which it is calibrated on."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch

from mumask import CrossAttentionMAE

KEPT = {"train_size": 0.9}
INDICES = [np.arange(81), np.arange(81, 90)]
EXTERNAL = {"datasplitter_kwargs": {"external_indexing": INDICES}}


def predictions(mosaic, fit, train):
    scvi.settings.seed = 0
    model = fit(mosaic, setup={"labels_key": "cell_type"}, epochs=3, train=train)
    return model, model.predict()


@pytest.mark.parametrize("train", [KEPT, {"shuffle_set_split": False}, EXTERNAL])
def test_a_validation_set_asked_for_is_never_learned(make_mosaic, fit, train):
    """Whatever its labels are: the predictions are the same."""
    mosaic = make_mosaic()
    model, before = predictions(mosaic, fit, train)
    held = model.validation_indices
    labels = mosaic.obs["cell_type"].to_numpy(str)
    labels[held] = np.roll(np.unique(labels), 1)[np.unique(labels, return_inverse=True)[1]][held]
    mosaic.obs["cell_type"] = labels
    again, after = predictions(mosaic, fit, train)
    np.testing.assert_array_equal(again.validation_indices, held)
    assert len(held) == 9 and after.tolist() == before.tolist()


def test_cells_held_back_for_the_calibration_are_learned_after_it(make_mosaic, fit):
    """A type that only they have is told from the others, unless they were to be kept."""
    mosaic = make_mosaic()
    held = predictions(mosaic, fit, {})[0].validation_indices
    labels = mosaic.obs["cell_type"].to_numpy(str)
    a_type = labels[held][0]
    labels[labels == a_type] = "Unknown"
    labels[held[mosaic.obs["cell_type"].to_numpy(str)[held] == a_type]] = a_type
    mosaic.obs["few"] = labels

    def found(train):
        scvi.settings.seed = 0
        model = fit(mosaic, setup={"labels_key": "few"}, epochs=3, train=train)
        np.testing.assert_array_equal(model.validation_indices, held)
        return (model.predict() == a_type).sum()

    assert found(KEPT) == 0
    assert found({}) > 0


def test_how_sure_to_be_is_learned_before(make_mosaic, fit):
    """The temperature is that of a head that has not seen the labels it is judged by."""
    temperatures = []
    for train in ({}, KEPT):
        model, _ = predictions(make_mosaic(), fit, train)
        temperatures.append([view["temperature"] for view in model.known_types_["views"]])
    assert temperatures[0] == temperatures[1]


def test_a_head_is_calibrated_before_it_knows_all_labels(mosaic, monkeypatch):
    """Also where it is fitted again, and where stage 1 ran anew in between."""
    scvi.settings.seed = 0
    CrossAttentionMAE.setup_mudata(mosaic, batch_key="batch", labels_key="cell_type")
    model = CrossAttentionMAE(mosaic, n_embed=16, n_latent=9, n_heads=2, max_tokens=6)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    head, starts, ends = model.module.classifier, [], []
    fit = model.module.fit_head

    def spied(z, source, labels, n_steps, repeats):
        weights = lambda: torch.cat([p.detach().ravel() for p in head.network.parameters()])
        starts.append(weights())
        fit(z, source, labels, n_steps=n_steps, repeats=repeats)
        ends.append((weights(), len(z)))

    monkeypatch.setattr(model.module, "fit_head", spied)
    model.train(max_epochs=1, **quiet)
    for again in (False, True, False):
        if again:
            model.train(max_epochs=1, **quiet)
        model.finetune(head_steps=20)
    n_rows = [n for _, n in ends]
    assert n_rows[0] == n_rows[2] == n_rows[4] < n_rows[1] == n_rows[3] == n_rows[5]
    for i, start in enumerate(starts):
        assert not any(torch.equal(start, end) for end, _ in ends[:i])
