"""Scores where points coincide, labels have one cell, or names are numbers."""

import numpy as np
import pandas as pd
import pytest

from mumask import metrics


class TestTies:
    def test_one_that_is_as_near_as_the_match_counts_half(self):
        # cells at 0 and 1, both matches at 1. From A: both of B are as near, 1/2 each. From B:
        # cell 0 lies on the other of A, 1; cell 1 on its match, 0.
        assert metrics.foscttm([[0.0], [1.0]], [[1.0], [1.0]]) == (0.5 + 0.5 + 1 + 0) / 4

    @pytest.mark.parametrize("chunk", [1000, 7])
    def test_a_collapsed_latent_is_chance(self, chunk, monkeypatch):
        monkeypatch.setattr("mumask.metrics._mixing.CHUNK", chunk)
        one_point = np.ones((20, 3))
        assert metrics.foscttm(one_point, one_point) == 0.5
        latent = np.random.default_rng(0).normal(size=(20, 3))
        assert metrics.foscttm(latent, latent) == 0


def test_singletons_in_both_are_identical_clusterings():
    scores = metrics.cluster_agreement(list("abcd"), [3, 1, 2, 0])
    assert set(scores.values()) == {1.0}
    assert metrics.cluster_agreement(list("abcd"), [0, 0, 1, 1])["FMI"] == 0


def test_batch_asw_of_labels_too_small():
    latent = np.random.default_rng(0).normal(size=(10, 2))
    labels, batch = ["a"] * 2 + ["b"] * 8, ["x", "y"] + ["x"] * 8
    with pytest.raises(ValueError, match="Batch ASW needs.*several in one"):
        metrics.batch_asw(latent, labels, batch)
    labels[2] = "a"  # two cells of one batch, one of the other
    assert 0 <= metrics.batch_asw(latent, labels, batch) <= 1


NUMBERS = {
    "int": [1, 1, 2],
    "float": [1.0, 1.0, 2.0],
    "text": ["1", "1", "2"],
    "categorical": pd.Categorical([1.0, 1.0, 2.0]),
}


class TestNamesThatAreNumbers:
    @pytest.mark.parametrize("known", NUMBERS.values(), ids=NUMBERS)
    @pytest.mark.parametrize("asked", NUMBERS.values(), ids=NUMBERS)
    def test_label_transfer(self, known, asked):
        latent = [[0.0], [1.0], [10.0]]
        assert metrics.label_transfer_accuracy(latent, known, latent, asked, 1) == 1
        assert metrics.label_transfer_accuracy(latent, known, latent[::-1], asked, 1) == 1 / 3

    @pytest.mark.parametrize("classes", [[1, 2], [1.0, 2.0], ["1", "2"]], ids=str)
    @pytest.mark.parametrize("labels", NUMBERS.values(), ids=NUMBERS)
    def test_calibration(self, classes, labels):
        table = pd.DataFrame([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], columns=classes)
        assert metrics.expected_calibration_error(table, labels) == 0
        values = table.to_numpy()
        assert metrics.expected_calibration_error(values, labels, classes=classes) == 0
        assert metrics.expected_calibration_error(values[::-1], labels, classes=classes) == 2 / 3

    def test_labels_of_other_classes(self):
        table = pd.DataFrame([[1.0, 0.0], [0.0, 1.0]], columns=["B", "T"])
        with pytest.raises(ValueError, match="No label is among the classes.*'B', 'T'.*'0', '1'"):
            metrics.expected_calibration_error(table, [0, 1])
        assert metrics.expected_calibration_error(table, ["B", "new"]) == 0.5


@pytest.mark.parametrize(
    "score",
    [
        metrics.batch_entropy_mixing,
        metrics.graph_connectivity,
        metrics.silhouette,
        lambda latent, labels: metrics.cluster_quality(latent, labels)["CHI"],
        lambda latent, labels: metrics.cluster_agreement(labels, np.roll(labels, 1))["ARI"],
        lambda latent, labels: metrics.batch_asw(latent, labels, np.roll(labels, 1)),
        lambda latent, labels: metrics.label_transfer_accuracy(latent, labels, latent, labels),
    ],
)
def test_labels_of_text_and_numbers(score):
    latent = np.random.default_rng(0).normal(size=(40, 3))
    names = np.where(np.arange(40) % 3 == 0, "1", "b")
    mixed = pd.Series([1 if name == "1" else name for name in names], dtype=object)
    assert score(latent, mixed) == score(latent, names)


def test_data_in_the_place_of_a_representation(mosaic):
    """An array of a MuData would take minutes and gigabytes."""
    for data in (mosaic, mosaic["rna"]):
        with pytest.raises(TypeError, match=r"Pass the representation to score: mdata.obsm"):
            metrics.silhouette(data, mosaic.obs["cell_type"])


def test_cells_in_another_order_are_refused():
    """Row by row, labels of one level of a MuData beside those of another would score as chance."""
    cells = [f"c{i}" for i in range(6)]
    labels = pd.Series(["B", "B", "B", "T", "T", "T"], cells)
    soft = pd.DataFrame({"B": labels == "B", "T": labels == "T"}, cells).astype(float)
    assert metrics.cluster_agreement(labels, labels.reset_index(drop=True))["ARI"] == 1
    assert metrics.expected_calibration_error(soft, labels) == 0
    turned = labels[::-1]
    with pytest.raises(ValueError, match="same cells in another order"):
        metrics.cluster_agreement(labels, turned)
    with pytest.raises(ValueError, match="same cells in another order"):
        metrics.expected_calibration_error(soft, turned)
