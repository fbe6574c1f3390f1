"""CrossAttentionMAE from counts to labels: few labels, and a query that has one modality only."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
import scvi
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from mumask import CrossAttentionMAE, datasets


def hide_labels(mdata, truth: str, share: float, seed: int = 0) -> np.ndarray:
    """Write `share` of the labels to obs["some"]; returns which cells are without."""
    unseen = np.random.default_rng(seed).random(mdata.n_obs) >= share
    labels = mdata.obs[truth].astype(str).to_numpy()
    mdata.obs["some"] = np.where(unseen, "Unknown", labels)
    return unseen


def test_simulated_mosaic():
    batches = {"CITE-seq": ("rna", "protein"), "RNA-only": ("rna",)}
    mdata = datasets.simulate_mosaic(200, batches, n_features={"rna": 300, "protein": 30})
    unseen = hide_labels(mdata, "cell_type", 0.5)
    scvi.settings.seed = 0
    CrossAttentionMAE.setup_mudata(mdata, batch_key="batch", labels_key="some")
    model = CrossAttentionMAE(mdata)
    model.train(max_epochs=20, enable_progress_bar=False, accelerator="cpu")
    z, types = model.get_latent_representation(), mdata.obs["cell_type"].astype(str).to_numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    knn = cross_val_score(KNeighborsClassifier(15), z, types, cv=folds).mean()
    model.finetune(head_steps=200)
    accuracy = (model.predict().astype(str) == types).to_numpy()[unseen].mean()
    print(f"kNN {knn:.3f}, labels {accuracy:.3f}")
    # Eight types of unequal size in two batches; one in eight by chance.
    assert knn > 0.7
    assert accuracy > 0.7


@pytest.mark.real
@pytest.mark.slow
def test_pbmc10k(real_data, tmp_path):
    """Labels of a part of the reference cells; the query comes without protein and labels."""
    full = md.read_h5mu(real_data / "pbmc10k_citeseq.h5mu")
    in_query = np.random.default_rng(0).random(full.n_obs) < 0.3
    reference = full[~in_query].copy()
    query = md.MuData({"rna": full["rna"][full.obs_names[in_query]].copy()})
    unseen = hide_labels(reference, "wnn_cluster", 0.4)
    scvi.settings.seed = 0
    CrossAttentionMAE.setup_mudata(reference, labels_key="some")
    model = CrossAttentionMAE(reference)
    model.train(max_epochs=6, enable_progress_bar=False, accelerator="cpu")
    model.finetune(head_steps=600)
    truth = reference.obs["wnn_cluster"].astype(str).to_numpy()[unseen]
    labels = model.predict(indices=unseen).astype(str).to_numpy()
    model.save(tmp_path / "reference")
    mapped = CrossAttentionMAE.load_query_data(query, tmp_path / "reference")
    query_truth = full.obs["wnn_cluster"].astype(str)[query.obs_names].to_numpy()
    query_labels = mapped.predict().astype(str).to_numpy()
    accuracy, macro_f1 = (labels == truth).mean(), f1_score(truth, labels, average="macro")
    zero_shot = (query_labels == query_truth).mean()
    print(f"accuracy {accuracy:.3f}, macro-F1 {macro_f1:.3f}, RNA-only query {zero_shot:.3f}")
    assert accuracy >= 0.94
    assert macro_f1 >= 0.91
    assert zero_shot >= 0.84
