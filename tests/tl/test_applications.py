"""Applications of inClust+ on simulated mosaics, against the truth (docs/applications)."""

from __future__ import annotations

import mudata
import numpy as np
import pytest

import mumask
from mumask import MaskedVAE
from mumask.datasets import simulate_mosaic
from mumask.metrics import batch_entropy_mixing, feature_correlation, label_transfer_accuracy

pytestmark = pytest.mark.slow


def fit(mdata, epochs=40, setup=None, **model) -> MaskedVAE:
    MaskedVAE.setup_mudata(mdata, **{"batch_key": "batch", **(setup or {})})
    model = MaskedVAE(mdata, **model)
    model.train(max_epochs=epochs, enable_progress_bar=False, accelerator="cpu")
    return model


def by_neighbours(z, labels) -> float:
    """How well half of the cells tell the labels of the other half."""
    half, labels = np.random.default_rng(0).random(len(z)) < 0.5, np.asarray(labels).astype(str)
    return label_transfer_accuracy(z[half], labels[half], z[~half], labels[~half])


def test_batches_go_and_tissue_stays():
    """Four CITE-seq donors from two sites: what is registered is removed, what is not remains."""
    donors = {f"donor{i}": ("rna", "protein") for i in range(4)}
    mdata = simulate_mosaic(
        250,
        donors,
        n_features={"rna": 300, "protein": 30},
        n_cell_types=6,
        factors={"tissue": ("blood", "tonsil")},
    )
    mdata.obs["site"] = np.where(mdata.obs["batch"].isin(["donor0", "donor1"]), "A", "B")
    removed, scores = {"kept": ["site"], "removed": ["site", "tissue"]}, {}
    for name, covariates in removed.items():
        model = fit(mdata, setup={"categorical_covariate_keys": covariates})
        z = model.get_latent_representation()
        scores[name] = {
            "entropy": batch_entropy_mixing(z, mdata.obs["batch"], 30, scaled=True),
            **{key: by_neighbours(z, mdata.obs[key]) for key in ("tissue", "cell_type")},
        }
    print(scores)
    # PCA of the RNA: entropy .65, tissue .87, cell type .67
    assert scores["kept"]["entropy"] >= 0.80
    assert scores["kept"]["tissue"] >= 0.90
    assert scores["kept"]["cell_type"] >= 0.72
    assert scores["removed"]["tissue"] <= scores["kept"]["tissue"] - 0.08


def test_cite_and_asap_seq_become_one_space_of_three_modalities():
    """RNA + protein and protein + ATAC: no cell has RNA and ATAC."""
    mdata, truth = simulate_mosaic(
        500,
        {"CITE-seq": ("rna", "protein"), "ASAP-seq": ("protein", "atac")},
        n_features={"rna": 300, "protein": 60, "atac": 600},
        n_cell_types=6,
        return_truth=True,
    )
    model = fit(mdata, epochs=60)
    z, batch = model.get_latent_representation(), mdata.obs["batch"].to_numpy()
    kinds = mdata.obs["cell_type"].to_numpy().astype(str)
    cite, asap = (np.flatnonzero(batch == b) for b in ("CITE-seq", "ASAP-seq"))
    scores = {
        "entropy": batch_entropy_mixing(z, batch, 50, scaled=True),
        "transfer": label_transfer_accuracy(z[cite], kinds[cite], z[asap], kinds[asap]),
    }
    for modality, cells in (("rna", asap), ("atac", cite)):  # never seen together
        values = model.get_normalized_expression(indices=cells, modality=modality)
        true = truth[modality].to_df().loc[values.index]
        scores[modality] = feature_correlation(np.log(values), np.log(true))["mPCC"]
    print(scores)
    assert scores["entropy"] >= 0.75
    assert scores["transfer"] >= 0.72
    assert scores["rna"] >= 0.42
    assert scores["atac"] >= 0.30  # 18 of 600 peaks are open in a cell


def test_each_data_set_gets_the_modality_of_the_other():
    """CITE-seq lacks ATAC, a multiome lacks protein; what both have is RNA."""
    mdata, truth = simulate_mosaic(
        500,
        {"CITE-seq": ("rna", "protein"), "multiome": ("rna", "atac")},
        n_features={"rna": 300, "protein": 30, "atac": 400},
        n_cell_types=6,
        return_truth=True,
    )
    model = fit(mdata, epochs=50)
    complete, scores = model.impute(), {}
    for modality in ("protein", "atac"):
        filled = complete[modality][complete[modality].obs["imputed"].to_numpy()]
        assert filled.n_obs == 500
        true = truth[modality][filled.obs_names].X
        scores[modality] = feature_correlation(np.log(filled.X), np.log(true))["mPCC"]
    print(scores)
    assert scores["protein"] >= 0.55
    assert scores["atac"] >= 0.25  # 12 of 400 peaks are open in a cell


def test_a_labelled_reference_labels_and_completes_an_rna_query():
    mdata, truth = simulate_mosaic(
        500,
        {"CITE1": ("rna", "protein"), "CITE2": ("rna", "protein"), "query": ("rna",)},
        n_features={"rna": 300, "protein": 30},
        n_cell_types=6,
        return_truth=True,
    )
    asked = (mdata.obs["batch"] == "query").to_numpy()
    reference, query = mdata[~asked].copy(), mdata[asked].copy()
    query = mudata.MuData({"rna": query["rna"].copy()})
    query.obs["batch"] = "query"
    model = fit(reference, setup={"labels_key": "cell_type"})
    mapped = MaskedVAE.load_query_data(query, model)
    mapped.train(max_epochs=10, enable_progress_bar=False, accelerator="cpu")
    labels = mapped.predict().astype(str)
    kinds = mdata.obs["cell_type"].astype(str)[query.obs_names]
    protein = mapped.get_normalized_expression(modality="protein")
    true = truth["protein"].to_df().loc[protein.index]
    scores = feature_correlation(np.log(protein), np.log(true))
    scores["accuracy"] = (labels == kinds).mean()
    print(scores)
    assert scores["accuracy"] >= 0.66
    assert scores["mPCC"] >= 0.55
    axes = mumask.pl.confusion(kinds, labels, show=False)
    assert "cells agree" in axes.get_title()
