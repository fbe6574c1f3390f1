"""Which labels a label head learns, and which it is calibrated on."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch

from mumask import CrossAttentionMAE

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
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


def masked_autoencoder(mosaic, **options):
    """Trained through stage 1."""
    scvi.settings.seed = 0
    CrossAttentionMAE.setup_mudata(mosaic, batch_key="batch", labels_key="cell_type")
    model = CrossAttentionMAE(mosaic, n_embed=16, n_latent=9, n_heads=2, max_tokens=6, **options)
    model.train(max_epochs=1, **QUIET)
    return model


def test_a_head_is_calibrated_before_it_knows_all_labels(make_mosaic, monkeypatch):
    """Also where it is fitted again, and where stage 1 ran anew in between."""
    model = masked_autoencoder(make_mosaic(60))
    head, starts, ends = model.module.classifier, [], []
    fit = model.module.fit_head

    def spied(z, source, labels, n_steps, repeats):
        weights = lambda: torch.cat([p.detach().ravel() for p in head.network.parameters()])
        starts.append(weights())
        fit(z, source, labels, n_steps=n_steps, repeats=repeats)
        ends.append((weights(), len(z)))

    monkeypatch.setattr(model.module, "fit_head", spied)
    for again in (False, True, False):
        if again:
            model.train(max_epochs=1, **QUIET)
        model.finetune(head_steps=20)
    n_rows = [n for _, n in ends]
    assert n_rows[0] == n_rows[2] == n_rows[4] < n_rows[1] == n_rows[3] == n_rows[5]
    for i, start in enumerate(starts):
        assert not any(torch.equal(start, end) for end, _ in ends[:i])


@pytest.mark.usefixtures("brief_calibration")
@pytest.mark.parametrize("head_steps", [0, 20])
def test_whole_network_training_ends_calibrated(make_mosaic, head_steps):
    """On embeddings as they are then, and with all labels known to the head."""
    model = masked_autoencoder(make_mosaic(60))
    model.finetune(max_epochs=2, head_steps=head_steps, **QUIET)
    learned, z = model.train_indices, model._latent_and_logits(model.adata, np.arange(180))[0]
    assert len(learned) == 180 - 36  # a fifth of the labels is held back
    np.testing.assert_allclose(model.known_types_["cells"], z[np.sort(learned)], atol=1e-5)
    assert all(view["temperature"] != 1 for view in model.known_types_["views"][:1])
    table = model.annotate()
    assert table["mumask_novelty"].notna().all() and table["mumask_label"].notna().all()


def with_other_labels(mosaic, held):
    """The same cells; the labels of `held` ones are those of other types."""
    codes = mosaic.obs["cell_type"].cat.codes.to_numpy().copy()
    codes[held] = (codes[held] + 1) % 4
    mosaic.obs["cell_type"] = mosaic.obs["cell_type"].cat.categories[codes]
    return mosaic


@pytest.mark.usefixtures("brief_calibration")
@pytest.mark.parametrize("before", [False, True])
def test_labels_of_the_calibration_move_no_weight_before_it(make_mosaic, monkeypatch, before):
    """Whatever they are, also where an earlier head has learned them."""
    weights, held = [], []
    calibrate = CrossAttentionMAE._calibrate_on

    def spied(model, labels, cells):
        weights.append({name: w.clone() for name, w in model.module.state_dict().items()})
        held.append(cells)
        calibrate(model, labels, cells)

    monkeypatch.setattr(CrossAttentionMAE, "_calibrate_on", spied)

    def at_the_calibration(mosaic):
        model = masked_autoencoder(mosaic)
        if before:
            model.finetune(head_steps=20)
        scvi.settings.seed = 0
        model.finetune(max_epochs=1, head_steps=0, **QUIET)
        return weights[-1]

    one = at_the_calibration(make_mosaic(60))
    assert len(held[-1]) == 36
    two = at_the_calibration(with_other_labels(make_mosaic(60), held[-1]))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("options", [KEPT, {"early_stopping": True}])
def test_whole_network_training_never_learns_a_validation_set(make_mosaic, options):
    """Its labels say how sure to be, and change no prediction."""

    def predictions(mosaic):
        model = masked_autoencoder(mosaic)
        model.finetune(max_epochs=1, head_steps=20, **options, **QUIET)
        return model, model.predict().tolist()

    model, before = predictions(make_mosaic(60))
    held = model.validation_indices
    assert len(held) == 18
    _, after = predictions(with_other_labels(make_mosaic(60), held))
    assert after == before


def test_a_query_learns_from_all_its_labels(make_mosaic, monkeypatch):
    """How sure to be was learned from the reference: nothing has to be held back."""
    model = masked_autoencoder(make_mosaic(60))
    model.finetune(head_steps=20)
    query = CrossAttentionMAE.load_query_data(make_mosaic(60, seed=1), model, unfrozen=True)
    known, left_out, learner = query.known_types_, [], query._head_learner

    def spied(*args):
        learn = learner(*args)
        return lambda n_steps, without: (left_out.append(len(without)), learn(n_steps, without))

    monkeypatch.setattr(query, "_head_learner", spied)
    query.finetune(max_epochs=1, head_steps=20, **QUIET)
    assert left_out == [0] and query.known_types_ is known
    assert (len(query.train_indices), len(query.validation_indices)) == (180, 0)
