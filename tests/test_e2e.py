"""The main job from data to result, with a floor for the quality of what comes out."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
import scvi
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from mumask import MaskedVAE
from mumask.datasets import simulate_mosaic

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def truth():
    return simulate_mosaic(
        300,
        n_features={"rna": 300, "protein": 30, "atac": 400},
        n_cell_types=5,
        panels={"ASAP-seq": {"protein": 0.8}},
        seed=3,
        return_truth=True,
    )


@pytest.fixture(scope="module")
def model(truth):
    """Default settings; CITE-seq cells have labels."""
    mdata, _ = truth
    labelled = (mdata.obs["batch"] == "CITE-seq").to_numpy()
    mdata.obs["label"] = np.where(labelled, mdata.obs["cell_type"], "Unknown")
    scvi.settings.seed = 0
    MaskedVAE.setup_mudata(mdata, batch_key="batch", labels_key="label")
    model = MaskedVAE(mdata)
    model.train(max_epochs=60, enable_progress_bar=False, accelerator="cpu")
    return model


def test_latent_has_the_cell_types_and_not_the_batches(model, truth):
    mdata, _ = truth
    z = model.get_latent_representation()
    clusters = KMeans(5, n_init=10, random_state=0).fit_predict(z)
    assert adjusted_rand_score(mdata.obs["cell_type"], clusters) > 0.8
    known = (mdata.obs["batch"] == "CITE-seq").to_numpy()
    knn = KNeighborsClassifier(15).fit(z[known], mdata.obs["cell_type"][known])
    assert knn.score(z[~known], mdata.obs["cell_type"][~known]) > 0.8


def test_labels_reach_the_other_batches(model, truth):
    mdata, _ = truth
    unseen = (mdata.obs["label"] == "Unknown").to_numpy()
    right = (model.predict().astype(str) == mdata.obs["cell_type"].astype(str)).to_numpy()
    assert right[unseen].mean() > 0.8
    uncertainty = model.get_label_uncertainty().to_numpy()
    assert uncertainty[unseen & ~right].mean() > uncertainty[unseen & right].mean()


def cellwise(a, b) -> float:
    """Median over cells of Spearman's correlation over features."""
    return float(np.median([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]))


def between_types(values, expected, types) -> float:
    """Median over features of the correlation over the means of cell types."""
    pairs = [
        np.stack([x[types == t].mean(axis=0) for t in np.unique(types)]) for x in (values, expected)
    ]
    columns = zip(*(p.T for p in pairs), strict=True)
    return float(np.nanmedian([np.corrcoef(x, y)[0, 1] for x, y in columns]))


@pytest.mark.parametrize("modality", ["rna", "protein", "atac"])
def test_imputed_modalities_are_near_the_truth(model, truth, modality):
    mdata, expected = truth
    full = model.impute(modalities=[modality])[modality]
    missing = full.obs["imputed"].to_numpy()
    assert missing.any()
    guess, there = full.X[missing], np.asarray(expected[modality].X)[missing]
    assert cellwise(guess, there) > 0.65
    types = mdata.obs["cell_type"].astype(str).to_numpy()[missing]
    reached = between_types(guess, there, types)
    if modality == "atac":  # few peaks are open: what a hundred cells show of their types is noisy
        measured = mdata[modality].to_df()
        kinds = mdata.obs["cell_type"].astype(str)
        means = measured.groupby(kinds[measured.index]).mean().loc[types].to_numpy()
        assert reached > between_types(means, there, types) + 0.05
    else:
        assert reached > 0.8


def test_features_off_the_panel_are_near_the_truth(model, truth):
    mdata, expected = truth
    asap = (mdata.obs["batch"] == "ASAP-seq").to_numpy()
    off = ~mdata["protein"].varm["measured"]["ASAP-seq"].to_numpy()
    assert off.any()
    full = model.impute(modalities=["protein"], indices=asap)["protein"].X[:, off]
    there = np.asarray(expected["protein"].X)[asap][:, off]
    types = mdata.obs["cell_type"].astype(str).to_numpy()[asap]
    assert between_types(full, there, types) > 0.6


def test_file_to_file(model, truth, tmp_path):
    """What a user does next: save, load elsewhere, write the results."""
    mdata, _ = truth
    z = model.get_latent_representation()
    model.save(tmp_path / "model")
    mdata.write(tmp_path / "m.h5mu")
    again = md.read_h5mu(tmp_path / "m.h5mu", backed="r")
    loaded = MaskedVAE.load(tmp_path / "model", again)
    np.testing.assert_allclose(
        loaded.get_latent_representation(indices=mdata.obs_names), z, atol=1e-4
    )
    full = loaded.impute()
    full.obsm["X_mumask"] = loaded.get_latent_representation(indices=full.obs_names)
    full.write(tmp_path / "out.h5mu")
    assert md.read_h5mu(tmp_path / "out.h5mu").obsm["X_mumask"].shape == z.shape


@pytest.mark.real
@pytest.mark.slow
def test_pbmc_wnn_mosaic(real_data):
    """Default settings, unsupervised, on cells measured in RNA, protein or both."""
    mdata = md.read_h5mu(real_data / "pbmc_wnn_mosaic.h5mu")
    scvi.settings.seed = 0
    MaskedVAE.setup_mudata(mdata, batch_key="batch")
    model = MaskedVAE(mdata)
    model.train(enable_progress_bar=False, accelerator="cpu")
    z, types = model.get_latent_representation(), mdata.obs["cell_type"].astype(str).to_numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    assert cross_val_score(KNeighborsClassifier(15), z, types, cv=folds).mean() >= 0.95
    rna, protein = (mdata.obs_names.isin(mdata[m].obs_names) for m in ("rna", "protein"))
    knn = KNeighborsClassifier(15).fit(z[rna & ~protein], types[rna & ~protein])
    assert knn.score(z[protein & ~rna], types[protein & ~rna]) >= 0.88
