from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scvi


@pytest.fixture
def brief_calibration(monkeypatch):
    """Of the head of an all-network fine-tuning: how well it ends up is not the question."""
    monkeypatch.setattr("mumask.model._stages.CALIBRATION_STEPS", 50)


@pytest.fixture(scope="module")
def trained(make_mosaic, fit):
    """A model with every kind of field, and a panel: protein0 and protein1 are not in `cite`."""
    scvi.settings.seed = 0
    mosaic = make_mosaic()
    protein = mosaic["protein"]
    x = protein.X.toarray()
    cite = protein.obs_names.str.startswith("cite")
    x[np.ix_(cite, [0, 1])] = 0
    x[cite, 5] += 1
    protein.X = sp.csr_matrix(x)
    seen = np.random.default_rng(5).random(mosaic["rna"].shape) < 0.9
    mosaic["rna"].layers["seen"] = seen
    setup = {
        "labels_key": "some_labels",
        "categorical_covariate_keys": ["site", "donor"],
        "continuous_covariate_keys": ["age"],
        "panels": {"protein": {"cite": [f"protein{i}" for i in range(2, 6)]}},
        "mask_layers": {"rna": "seen"},
    }
    return fit(mosaic, setup=setup, epochs=15, held_out={"rna": ["rna3"]}, arithmetic="subtract")
