"""Tissues and conditions in simulated data."""

from __future__ import annotations

import numpy as np
import pytest

from mumask.datasets import simulate_mosaic

SMALL = {"n_features": {"rna": 80, "protein": 10, "atac": 60}, "n_cell_types": 3}
TISSUES = {"tissue": ("blood", "tonsil", "gut")}


def test_a_factor_moves_cells_of_every_type_alike():
    mdata, truth = simulate_mosaic(300, factors=TISSUES, return_truth=True, **SMALL)
    tissue, kinds = mdata.obs["tissue"], mdata.obs["cell_type"]
    assert list(tissue.cat.categories) == ["blood", "tonsil", "gut"]
    assert tissue.value_counts().min() > 150
    z, moves = mdata.obsm["X_true"], []
    for kind in kinds.cat.categories:
        centres = [z[(kinds == kind) & (tissue == t)].mean(axis=0) for t in ("blood", "tonsil")]
        moves.append(centres[1] - centres[0])
    moves = np.array(moves) / np.linalg.norm(moves, axis=1, keepdims=True)
    assert (moves @ moves.T).min() > 0.9
    rna = truth["rna"].X
    change = [
        np.log(rna[(kinds == k) & (tissue == "gut")].mean(0) / rna[(kinds == k) & (tissue == "blood")].mean(0))
        for k in kinds.cat.categories[:2]
    ]  # fmt: skip
    assert np.corrcoef(*change)[0, 1] > 0.8


def test_without_factors_nothing_changes_and_strength_zero_moves_nothing():
    plain = simulate_mosaic(50, **SMALL)
    still = simulate_mosaic(50, factors=TISSUES, factor_strength=0, **SMALL)
    np.testing.assert_array_equal(plain.obsm["X_true"], still.obsm["X_true"])
    assert (plain["rna"].X != still["rna"].X).nnz == 0
    assert "tissue" not in plain.obs


def test_the_first_level_moves_nothing():
    plain, moved = simulate_mosaic(50, **SMALL), simulate_mosaic(50, factors=TISSUES, **SMALL)
    first = (moved.obs["tissue"] == "blood").to_numpy()
    same = np.isclose(plain.obsm["X_true"], moved.obsm["X_true"], atol=1e-6).all(axis=1)
    np.testing.assert_array_equal(same, first)


@pytest.mark.parametrize(
    "factors", [{"tissue": ("one",)}, {"tissue": ("a", "a")}, {"cell_type": ("a", "b")}]
)
def test_bad_factors(factors):
    with pytest.raises(ValueError, match="names"):
        simulate_mosaic(20, factors=factors, **SMALL)
