"""A condition that was not seen for a cell type, predicted by vector arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from mumask import MaskedVAE
from mumask.datasets import simulate_mosaic

HELD = "L2b"  # no stimulated cell of this type is seen in training


@pytest.fixture(scope="module")
def experiment():
    """Three donors, two conditions; the true change of the held-out type by modality."""
    donors = {"d1": ("rna", "protein"), "d2": ("rna", "protein"), "d3": ("rna",)}
    mdata, truth = simulate_mosaic(
        400,
        donors,
        n_features={"rna": 300, "protein": 30},
        n_cell_types=6,
        factors={"condition": ("control", "stimulated")},
        return_truth=True,
    )
    held = (mdata.obs["cell_type"] == HELD).to_numpy()
    stimulated = (mdata.obs["condition"] == "stimulated").to_numpy()
    change = {
        name: np.log(t.X[held & stimulated].mean(axis=0) / t.X[held & ~stimulated].mean(axis=0))
        for name, t in truth.items()
    }
    return mdata[~(held & stimulated)].copy(), change, measured_change(mdata)


def measured_change(mdata) -> np.ndarray:
    """What the other types show without a model: mean log change of their measured RNA."""
    rna = mdata["rna"]
    x = rna.X.toarray()
    x = x / x.sum(axis=1, keepdims=True) * x.sum(axis=1).mean()
    obs = mdata.obs.loc[rna.obs_names]
    changes = []
    for kind in set(obs["cell_type"]) - {HELD}:
        own = (obs["cell_type"] == kind).to_numpy()
        case = (obs["condition"] == "stimulated").to_numpy()
        means = [x[own & case].mean(axis=0), x[own & ~case].mean(axis=0)]
        changes.append(np.log((means[0] + 0.05) / (means[1] + 0.05)))
    return np.mean(changes, axis=0)


WAYS = {
    "decoder": {},
    "subtract": {"arithmetic": "subtract", "condition_decoder": False},
    "add": {"arithmetic": "add", "condition_decoder": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_unseen_condition(experiment, way, unchanged):
    mdata, truth, measured = experiment
    MaskedVAE.setup_mudata(mdata, batch_key="batch", categorical_covariate_keys=["condition"])
    model = MaskedVAE(mdata, **WAYS[way])
    model.train(max_epochs=60, enable_progress_bar=False, accelerator="cpu")
    cells = mdata.obs_names[mdata.obs["cell_type"] == HELD]
    check, r = unchanged(mdata), {}
    for modality, change in truth.items():
        old, new = (
            model.predict_condition({"condition": c}, indices=cells, modality=modality)
            for c in ("control", "stimulated")
        )
        predicted = np.log(new.mean() / old.mean())
        r[modality] = np.corrcoef(predicted, change)[0, 1]
        assert np.polyfit(change, predicted, 1)[0] > 0.3  # in size as well, though shrunken
    check()
    floor = 0.7 if way == "decoder" else 0.75
    assert r["rna"] >= floor
    assert r["protein"] >= 0.78
    if way != "decoder":
        assert r["rna"] > np.corrcoef(measured, truth["rna"])[0, 1]


def test_own_values_change_nothing(trained):
    obs = trained.adata.obs
    cells = obs.index[(obs["site"] == "x") & (obs["batch"] == "cite")]
    same = trained.predict_condition({"site": "x", "batch": "cite"}, indices=cells)
    own = trained.get_normalized_expression(indices=cells)
    np.testing.assert_allclose(same, own, rtol=1e-4)
    from_rna = {"indices": cells, "source": "rna"}
    np.testing.assert_allclose(
        trained.predict_condition({"site": "x"}, **from_rna),
        trained.get_normalized_expression(**from_rna),
        rtol=1e-4,
    )
    other = trained.predict_condition({"site": "y"}, indices=cells)
    assert not np.allclose(other, own, rtol=1e-3)
    as_batch = trained.predict_condition({"batch": "solo"}, indices=cells, modality="protein")
    np.testing.assert_allclose(
        as_batch,
        trained.get_normalized_expression(
            indices=cells, modality="protein", transform_batch="solo"
        ),
        rtol=1e-4,
    )


def test_several_covariates_and_numbers(trained):
    age = float(trained.adata.obs["age"].iloc[4])
    own = trained.get_normalized_expression(indices=[4])
    np.testing.assert_allclose(trained.predict_condition({"age": age}, indices=[4]), own, rtol=1e-4)
    changed = trained.predict_condition(
        {"age": age + 30, "donor": "d2", "site": "y"}, indices=[4], features=["rna5", "rna1"]
    )
    assert list(changed.columns) == ["rna5", "rna1"]
    assert np.isfinite(changed.to_numpy()).all()


def test_the_batch_may_be_a_covariate_too(make_mosaic, fit):
    """Each name means its own columns, of which that of the batch then has two."""
    keys = {"categorical_covariate_keys": ["batch", "site"]}
    model = fit(make_mosaic(), setup=keys, epochs=2, arithmetic="subtract")
    obs = model.adata.obs
    cells = obs.index[(obs["site"] == "x") & (obs["batch"] == "cite")]
    own = model.get_normalized_expression(indices=cells)
    for same in ({"site": "x"}, {"batch": "cite"}):
        np.testing.assert_allclose(model.predict_condition(same, indices=cells), own, rtol=1e-4)
    categories, _ = model._new_values({"batch": "solo", "site": "y"})
    assert categories == {0: model.batches.index("solo"), 1: model.batches.index("solo"), 2: 1}


@pytest.mark.parametrize(
    ("covariates", "error", "text"),
    [
        ({}, ValueError, "empty"),
        ("site", TypeError, "goes by column.*'site'"),
        ({"typo": "x"}, KeyError, "typo"),
        ({"site": "typo"}, ValueError, "typo"),
        ({"age": "old"}, ValueError, "`covariates`: 'age' is a finite number, not 'old'"),
        ({"age": np.nan}, ValueError, "`covariates`: 'age' is a finite number, not nan"),
        ({"age": np.inf}, ValueError, "'age' is a finite number, not inf"),
        ({"age": None}, ValueError, "`covariates`: 'age' is a finite number, not None"),
        ({"batch": ["cite", "solo"]}, TypeError, "`covariates`: one value of 'batch'"),
    ],
)
def test_bad_conditions(trained, covariates, error, text):
    with pytest.raises(error, match=text):
        trained.predict_condition(covariates)


def test_a_model_without_arithmetic_says_so(make_mosaic, fit):
    model = fit(make_mosaic(), condition_decoder=False, epochs=1)
    with pytest.raises(ValueError, match="arithmetic="):
        model.predict_condition({"batch": "solo"})
