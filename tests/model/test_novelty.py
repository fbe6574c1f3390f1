"""The scale of novelty: one known cell in a hundred exceeds 0.99, however few cells tell."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from mumask.model._calibration import LEVELS, CalibrationMixin


class Few:
    """What `_novelty` reads of a model."""

    modalities = ("rna",)
    _view_of, _novelty = CalibrationMixin._view_of, CalibrationMixin._novelty

    def __init__(self, known: np.ndarray):
        logs = np.log(known)
        view = {
            "modalities": ["rna"],
            "n_cells": len(known),
            "distance": np.quantile(known, LEVELS),
            "log_distance": [logs.mean(), logs.std(ddof=1)],
        }
        self.known_types_ = {"views": [view]}


@pytest.mark.parametrize("n_known", [3, 20, 98, 99, 500])
def test_share_of_known_cells_that_are_flagged(n_known):
    rng = np.random.default_rng(0)
    draw = lambda n: np.exp(rng.normal(1, 0.4, n))
    flagged = []
    for _ in range(400):
        novelty = Few(draw(n_known))._novelty(np.ones((200, 1), bool), draw(200))
        flagged.append((novelty > 0.99).mean())
    assert np.mean(flagged) == pytest.approx(0.01, abs=0.004)


@pytest.mark.parametrize("n_known", [10, 200])
def test_farther_is_more_novel(n_known):
    known = np.exp(np.random.default_rng(0).normal(size=n_known))
    distance = np.sort(np.exp(np.random.default_rng(1).normal(size=50)) * 3)
    novelty = Few(known)._novelty(np.ones((50, 1), bool), distance)
    assert (np.diff(novelty) >= 0).all() and novelty[-1] > 0.9


def test_too_few_labels_are_said(mosaic, fit, caplog):
    with caplog.at_level(logging.WARNING, "mumask"):
        model = fit(mosaic, setup={"labels_key": "some_labels"}, epochs=1)
    assert "judged by cells of the training" in caplog.text
    assert all(view["n_cells"] >= 3 for view in model.known_types_["views"])
