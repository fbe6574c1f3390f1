"""Every score against a value worked out by hand, and where it must not move or must move."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import silhouette_samples

from mumask import metrics


def two_blobs(n=100, gap=50.0, seed=0):
    """Two far groups; labels are the groups, batches alternate inside them."""
    Z = np.random.default_rng(seed).normal(size=(2 * n, 3))
    Z[n:] += gap
    return Z, np.repeat(["a", "b"], n), np.tile(["x", "y"], n)


class TestBatchEntropy:
    def test_by_hand(self):
        # On a line, 1 neighbour each: 0-1 and 10-11 pair up. Batches of equal size, so q = p.
        # Every cell sees one batch only: entropy 0.
        Z = np.array([[0.0], [1.0], [10.0], [11.5]])
        assert metrics.batch_entropy_mixing(Z, list("aabb"), 1, None) == 0
        # 3 neighbours = all others: shares 1/3, 2/3 -> H = ln 3 - 2/3 ln 2, over log2(2) = 1
        expected = np.log(3) - 2 / 3 * np.log(2)
        assert metrics.batch_entropy_mixing(Z, list("abab"), 3, None) == pytest.approx(expected)

    def test_batch_sizes_are_accounted_for(self):
        # 5 cells, all neighbours of each other; batch a has 4, b has 1.
        # a cell of a sees 3 a, 1 b: p/P = (.75/.8, .25/.2) -> q = (3/7, 4/7)
        # the cell of b sees 4 a: q = (1, 0), entropy 0
        q = np.array([3, 4]) / 7
        expected = 4 / 5 * -(q * np.log(q)).sum()
        Z = np.arange(5.0)[:, None]
        assert metrics.batch_entropy_mixing(Z, list("aaaab"), 100, None) == pytest.approx(expected)

    def test_range_and_scale(self):
        Z, labels, batch = two_blobs(300)
        mixed = metrics.batch_entropy_mixing(Z, batch)
        assert 0.97 * np.log(2) < mixed <= np.log(2)  # uniPort's scale ends at ln 2
        assert metrics.batch_entropy_mixing(Z, batch, scaled=True) == pytest.approx(
            mixed / np.log(2)
        )
        assert metrics.batch_entropy_mixing(Z, labels) == 0
        three = np.arange(len(Z)) % 3  # the scale is the same for any number of batches
        assert metrics.batch_entropy_mixing(Z, three) == pytest.approx(np.log(2), rel=0.03)

    def test_draws_come_close_to_all_cells_and_follow_the_seed(self):
        Z, _, batch = two_blobs(200, seed=1)
        batch = np.where(Z[:, 0] > 0, batch, "x")
        exact = metrics.batch_entropy_mixing(Z, batch, 20, None)
        one, two = (metrics.batch_entropy_mixing(Z, batch, 20, seed=s) for s in (0, 1))
        assert one != two and one == pytest.approx(exact, abs=0.01)

    def test_duplicated_cells_are_not_their_own_neighbours(self):
        Z = np.zeros((6, 2))  # every neighbour list is a tie; the own index may be missing
        score = metrics.batch_entropy_mixing(Z, list("ababab"), 5, None)
        q = np.array([2, 3]) / 5
        assert score == pytest.approx(-(q * np.log(q)).sum())

    def test_one_batch_is_an_error(self):
        with pytest.raises(ValueError, match="two batches"):
            metrics.batch_entropy_mixing(np.eye(3), ["a"] * 3)

    def test_no_neighbours_are_an_error(self):
        with pytest.raises(ValueError, match="`n_neighbors` is 0; at least 1"):
            metrics.batch_entropy_mixing(np.eye(3), list("aba"), 0)


def test_silhouette_by_hand():
    # a = 1 in both groups; b = (9 + 10) / 2 for the inner, (10 + 11) / 2 for the outer cells
    Z, labels = np.array([[0.0], [1.0], [10.0], [11.0]]), list("aabb")
    width = np.mean([1 - 1 / 10.5, 1 - 1 / 9.5] * 2)
    assert metrics.silhouette(Z, labels, scaled=False) == pytest.approx(width)
    assert metrics.silhouette(Z, labels) == pytest.approx((width + 1) / 2)


class TestClusters:
    def test_pairs_by_hand(self):
        # 5 cells, labels {0,1,2} {3,4}, clusters {0,1} {2,3,4}
        # together in both: 01, 34 -> TP 2; label only: 02, 12 -> FN 2; cluster only: 23, 24 -> FP 2
        scores = metrics.cluster_agreement([0, 0, 0, 1, 1], list("ppqqq"))
        assert scores["F-measure"] == pytest.approx(2 * 2 / (2 * 2 + 4))
        assert scores["Jaccard"] == pytest.approx(2 / 6)
        assert scores["FMI"] == pytest.approx(2 / np.sqrt(4 * 4))
        # ARI = (TP - E) / (mean - E) with E = 4 * 4 / 10
        assert scores["ARI"] == pytest.approx((2 - 1.6) / (4 - 1.6))

    def test_nmi_by_hand(self):
        # independent halves share no information; identical ones all
        assert metrics.cluster_agreement([0, 0, 1, 1], [0, 1, 0, 1])["NMI"] == pytest.approx(0)
        same = metrics.cluster_agreement(list("aabbc"), [2, 2, 0, 0, 1])
        assert set(same) == {"ARI", "NMI", "FMI", "AMI", "F-measure", "Jaccard"}
        assert all(value == pytest.approx(1) for value in same.values())

    @pytest.mark.parametrize("gap", [np.nan, None])
    def test_missing_labels_are_no_class(self, gap):
        for labels in ([gap, "a", "b"], pd.Series([gap, "a", "b"], dtype="category")):
            with pytest.raises(ValueError, match="missing"):
                metrics.cluster_agreement(labels, [0, 1, 1])
            with pytest.raises(ValueError, match="missing"):
                metrics.cluster_agreement([0, 1, 1], labels)
            with pytest.raises(ValueError, match="missing"):
                metrics.silhouette(np.eye(3), labels)
        with pytest.raises(ValueError, match="fit 3 cells"):
            metrics.cluster_agreement(["a", "a", "b"], [0, 1])

    def test_all_singletons(self):
        scores = metrics.cluster_agreement([0, 1, 2], [2, 0, 1])
        assert scores["F-measure"] == scores["Jaccard"] == scores["FMI"] == 1

    def test_quality_by_hand(self):
        Z, labels = np.array([[0.0], [2.0], [10.0], [12.0]]), [0, 0, 1, 1]
        scores = metrics.cluster_quality(Z, labels)
        # between: 4 * 5^2 over 1; within: 4 * 1 over 2 -> 50; scatter 1 each, centres 10 apart
        assert scores["CHI"] == pytest.approx(50)
        assert scores["DBI"] == pytest.approx(2 / 10)
        assert scores["ASW"] == pytest.approx(metrics.silhouette(Z, labels, scaled=False))


class TestFeatureCorrelation:
    truth = np.array([[0.0, 1, 5, 2], [1, 2, 5, 0], [2, 3, 5, 1], [3, 9, 5, 4]])
    pred = np.array([[0.0, 4, 1, 2], [2, 3, 2, 2], [4, 2, 3, 2], [6, 1, 4, 2]])

    def test_by_hand(self):
        table = metrics.feature_correlation(self.pred, self.truth, per_feature=True)
        # ranks reversed: Spearman -1; constant truth and constant prediction: 0
        np.testing.assert_allclose(table["spearman"], [1, -1, 0, 0], atol=1e-12)
        pearson = -np.corrcoef([1, 2, 3, 9], [1, 2, 3, 4])[0, 1]
        np.testing.assert_allclose(table["pearson"], [1, pearson, 0, 0], atol=1e-12)
        scores = metrics.feature_correlation(self.pred, self.truth)
        assert scores["mSCC"] == 0 and scores["aSCC"] == pytest.approx(0, abs=1e-12)
        assert scores["mPCC"] == 0 and scores["aPCC"] == pytest.approx((1 + pearson) / 4)

    def test_ties_take_the_mean_rank(self):
        table = metrics.feature_correlation([[0], [0], [1], [2.0]], [[1], [2], [3], [4.0]],
                                            per_feature=True)  # fmt: skip
        expected = np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
        assert table["spearman"].item() == pytest.approx(expected)

    def test_names_and_sparse(self):
        names = list("wxyz")
        truth = pd.DataFrame(self.truth, columns=names)
        table = metrics.feature_correlation(sp.csr_matrix(self.pred), truth, per_feature=True)
        assert list(table.index) == names
        assert table.loc["w", "pearson"] == pytest.approx(1)

    def test_shuffled_names_and_nan_are_refused(self):
        truth = pd.DataFrame(self.truth, columns=list("wxyz"))
        pred = pd.DataFrame(self.pred, columns=list("xwyz"))
        with pytest.raises(ValueError, match="cells or features"):
            metrics.feature_correlation(pred, truth)
        with pytest.raises(ValueError, match="measured"):
            metrics.feature_correlation(np.full((3, 2), np.nan), np.ones((3, 2)))
        with pytest.raises(ValueError, match="one shape"):
            metrics.feature_correlation(np.ones((3, 2)), np.ones((3, 1)))


class TestMatching:
    def test_foscttm_by_hand(self):
        A = np.array([[0.0], [1.0], [2.0]])
        assert metrics.foscttm(A, A) == 0
        # swap the outer two: they have both others nearer or as far (1 < 2), the middle none
        B = A[::-1]
        # cell 0: match at distance 2, others at 1 and 0 -> 2 of 2; cell 2 alike; cell 1: 0
        assert metrics.foscttm(A, B) == pytest.approx((2 + 0 + 2) / 6)

    def test_foscttm_chunks_and_chance(self, monkeypatch):
        rng = np.random.default_rng(0)
        A, B = rng.normal(size=(2, 150, 4))
        whole = metrics.foscttm(A, B)
        monkeypatch.setattr("mumask.metrics._mixing.CHUNK", 7)
        assert metrics.foscttm(A, B) == pytest.approx(whole)
        assert whole == pytest.approx(0.5, abs=0.05)
        with pytest.raises(ValueError, match="same cells"):
            metrics.foscttm(A, B[:10])

    def test_label_transfer_by_hand(self):
        reference, labels = [[0.0], [1.0], [10.0], [11.0]], list("aabb")
        query = [[0.4], [10.6], [0.2], [10.2]]
        accuracy = metrics.label_transfer_accuracy(reference, labels, query, list("abba"), 1)
        assert accuracy == 0.5
        unknown = metrics.label_transfer_accuracy(reference, labels, query[:1], ["new"], 1)
        assert unknown == 0


class TestCalibration:
    def test_by_hand(self):
        # two bins: (0, .5] holds one cell (conf .5, right): gap .5;
        # (.5, 1] holds .9 right and .7 wrong: accuracy .5, confidence .8: gap .3
        probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]])
        error = metrics.expected_calibration_error(probabilities, [0, 0, 0], n_bins=2)
        assert error == pytest.approx(1 / 3 * 0.5 + 2 / 3 * 0.3)

    def test_class_names_of_a_table(self):
        table = pd.DataFrame([[1.0, 0.0], [0.0, 1.0]], columns=["B", "T"])
        assert metrics.expected_calibration_error(table, ["B", "T"]) == 0
        assert metrics.expected_calibration_error(table, ["T", "B"]) == 1
        assert (
            metrics.expected_calibration_error(table.to_numpy(), ["T", "B"], classes=["T", "B"])
            == 0
        )

    def test_honest_probabilities_score_near_zero(self):
        rng = np.random.default_rng(0)
        confidence = rng.uniform(0.5, 1, 20_000)
        labels = (rng.random(20_000) > confidence).astype(int)
        probabilities = np.stack([confidence, 1 - confidence], axis=1)
        assert metrics.expected_calibration_error(probabilities, labels) < 0.02

    def test_scores_that_are_no_probabilities(self):
        with pytest.raises(ValueError, match="sum to 1"):
            metrics.expected_calibration_error(np.array([[2.0, 3.0]]), [0])


class TestScib:
    def test_batch_asw_extremes(self):
        Z, labels, batch = two_blobs(60)
        widths = [
            np.abs(silhouette_samples(Z[labels == name], batch[labels == name])).mean()
            for name in "ab"
        ]
        assert metrics.batch_asw(Z, labels, batch) == pytest.approx(1 - np.mean(widths), abs=1e-3)
        apart = Z + np.where(batch == "x", 0, 1e3)[:, None]
        assert metrics.batch_asw(apart, labels, batch) < 0.05
        with pytest.raises(ValueError, match="two batches"):
            metrics.batch_asw(Z, labels, labels)

    def test_graph_connectivity_by_hand(self):
        # label a is in one piece; of b's 10 cells 4 lie apart -> largest piece 6/10
        Z = np.concatenate([np.arange(10), 100 + np.arange(6), 200 + np.arange(4)])[:, None]
        labels = np.repeat(["a", "b"], 10)
        assert metrics.graph_connectivity(Z, labels, n_neighbors=4) == pytest.approx((1 + 0.6) / 2)


class TestTable:
    def test_rows_depend_on_what_is_known(self):
        Z, labels, batch = two_blobs(40)
        table = metrics.integration_table(Z, batch, labels, clusters=labels)
        assert list(table.columns) == ["value", "better", "about"]
        assert set(table["better"]) == {"higher", "lower"}
        assert table.loc["DBI", "better"] == "lower"
        assert table.loc["silhouette", "value"] == pytest.approx(metrics.silhouette(Z, labels))
        assert table.loc["batch entropy mixing", "value"] == pytest.approx(
            metrics.batch_entropy_mixing(Z, batch)
        )
        assert table.loc["ARI", "value"] == 1
        only = metrics.integration_table(Z, labels=labels)
        assert set(only["about"]) == {"separation"}
        assert list(metrics.integration_table(Z, batch).index) == ["batch entropy mixing"]

    def test_what_cannot_be_computed_is_nan_and_said(self, caplog):
        Z, labels, _ = two_blobs(20)
        table = metrics.integration_table(Z, ["one"] * len(Z), labels)
        assert np.isnan(table.loc["batch entropy mixing", "value"])
        assert np.isfinite(table.loc["silhouette", "value"])
        assert "two batches" in caplog.text

    def test_wrong_input_is_an_error_not_a_nan(self):
        Z, labels, batch = two_blobs(20)
        with pytest.raises(ValueError, match="fit 40 cells"):
            metrics.integration_table(Z, labels=labels[:5])
        with pytest.raises(ValueError, match="`clusters` are compared with `labels`"):
            metrics.integration_table(Z, batch, clusters=labels)
        with pytest.raises(ValueError, match="missing"):
            metrics.integration_table(Z, labels=[None, *labels[1:]])


@pytest.mark.parametrize("latent", [np.full((4, 2), np.nan), np.ones(4)])
def test_latent_must_be_a_finite_table(latent):
    with pytest.raises(ValueError, match="latent"):
        metrics.silhouette(latent, list("aabb"))
