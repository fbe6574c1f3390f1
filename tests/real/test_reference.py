"""A labelled CITE-seq reference and a query with RNA alone; types that the reference lacks."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import mumask
from mumask import MaskedVAE
from mumask.metrics import expected_calibration_error, feature_correlation
from mumask.module._mosaic_batch import MosaicBatch

pytestmark = [pytest.mark.real, pytest.mark.slow]

NEW_TYPES = {"B cells": "5", "NK cells": "2"}


@pytest.fixture(scope="module", params=NEW_TYPES)
def mapped(request, real_data):
    """Reference (70 % of the cells) without one type; the query has it, and hides its proteins."""
    full = mudata.read_h5mu(real_data / "pbmc10k_citeseq.h5mu")
    query = np.random.default_rng(0).random(full.n_obs) < 0.3
    kinds = full.obs["wnn_cluster"].astype(str)
    new = NEW_TYPES[request.param]
    reference = full[~query & (kinds != new).to_numpy()].copy()
    scvi.settings.seed = 0
    MaskedVAE.setup_mudata(reference, labels_key="wnn_cluster")
    model = MaskedVAE(reference)
    model.train(max_epochs=20, enable_progress_bar=False, accelerator="cpu")
    return model, full[query].copy(), kinds[query], new


def known_and_flag(model, query, kinds, new) -> dict[str, float]:
    table, probabilities = model.annotate(), model.predict(soft=True)
    kinds = kinds[query.obs_names]
    known = (kinds != new).to_numpy()
    return {
        "accuracy": (table["mumask_label"].astype(str) == kinds)[known].mean(),
        "ECE": expected_calibration_error(probabilities[known], kinds[known]),
        "AUROC": roc_auc_score(~known, table["mumask_novelty"]),
    }


def test_labels_and_new_types_from_both_modalities(mapped):
    model, query, kinds, new = mapped
    scores = known_and_flag(MaskedVAE.load_query_data(query, model), query, kinds, new)
    print(new, scores)
    assert scores["AUROC"] >= 0.90
    assert scores["ECE"] <= 0.05
    assert scores["accuracy"] >= 0.88


def test_labels_and_proteins_from_rna_alone(mapped):
    model, query, kinds, new = mapped
    rna = mudata.MuData({"rna": query["rna"].copy()})
    mapped_model = MaskedVAE.load_query_data(rna, model)
    scores = known_and_flag(mapped_model, rna, kinds, new)
    protein = mapped_model.get_normalized_expression(modality="protein")
    measured = pd.DataFrame(
        query["protein"].X.toarray(), query["protein"].obs_names, protein.columns
    ).loc[protein.index]
    known = (kinds[protein.index] != new).to_numpy()
    scores |= feature_correlation(np.log1p(protein[known]), np.log1p(measured[known]))
    print(new, scores)
    assert scores["accuracy"] >= 0.80
    assert scores["ECE"] <= 0.06
    assert scores["AUROC"] >= 0.85
    assert scores["mPCC"] >= 0.70
    assert scores["mSCC"] >= 0.42


@pytest.mark.parametrize("modalities", [["rna", "protein"], ["rna"]])
def test_refinement_helps(mapped, modalities):
    """Labels, new types and proteins of unseen cells, and with the encoder's answer alone."""
    model, query, kinds, new = mapped
    cells = mudata.MuData({name: query[name].copy() for name in modalities})
    mapped_model = MaskedVAE.load_query_data(cells, model)
    known = (kinds[cells.obs_names] != new).to_numpy()
    measured = np.log1p(query["protein"][cells.obs_names].X.toarray()[known])
    scores = {}
    for steps in (mapped_model.module.refine_steps, 0):
        mapped_model.module.refine_steps = steps
        scores[steps] = known_and_flag(mapped_model, cells, kinds, new)
        protein = mapped_model.get_normalized_expression(modality="protein")[known]
        scores[steps] |= feature_correlation(np.log1p(protein.to_numpy()), measured)
    print(new, scores)
    refined, encoded = scores.values()
    assert refined["accuracy"] > encoded["accuracy"] + 0.003
    assert refined["aPCC"] > encoded["aPCC"]
    assert refined["AUROC"] > encoded["AUROC"] - 0.005
    assert refined["ECE"] < 0.06


def test_expected_logarithms_follow_a_log_scale_better(mapped):
    """Centred log-ratios of proteins: than those of expected counts do, and at the right level."""
    model, query, kinds, new = mapped
    known = query[(kinds[query.obs_names] != new).to_numpy()].copy()
    mumask.pp.clr(known, axis=1)
    measured = known["protein"].to_df("clr")
    rna = mudata.MuData({"rna": known["rna"].copy()})
    mapped_model = MaskedVAE.load_query_data(rna, model)
    of_counts = np.log1p(mapped_model.get_normalized_expression(modality="protein"))
    logs = mapped_model.get_log_expression(modality="protein")
    scores = {}
    for title, values in (("counts", of_counts), ("logarithms", logs)):
        values = values.sub(values.mean(axis=1), axis=0)
        scores[title] = feature_correlation(values, measured.loc[values.index])
    print(new, scores)
    for score in ("mSCC", "aSCC", "aPCC"):
        assert scores["logarithms"][score] > scores["counts"][score]
    assert scores["logarithms"]["aSCC"] > 0.70
    too_low = np.log1p(known["protein"].to_df()).mean() - logs.mean()
    print(too_low.round(2).to_dict())
    assert too_low.abs().max() < 0.2


def test_neighbours_in_the_latent_space_beat_those_in_the_genes(mapped):
    """Proteins of a query with RNA alone, averaged over as many reference cells."""
    model, query, kinds, new = mapped
    known = query[(kinds[query.obs_names] != new).to_numpy()].copy()
    reference, rna = model.adata.copy(), mudata.MuData({"rna": known["rna"].copy()})
    mumask.pp.clr(reference, axis=1)
    mumask.pp.clr(known, axis=1)
    reference.obsm["X_rna"] = model.get_latent_representation(source="rna")
    mapped_model = MaskedVAE.load_query_data(rna, model)
    rna.obsm["X_rna"] = mapped_model.get_latent_representation(source="rna")

    genes = sc.AnnData(sparse.vstack([data["rna"].X for data in (reference, rna)]).tocsr())
    sc.pp.normalize_total(genes, target_sum=1e4)
    sc.pp.log1p(genes)
    fit = PCA(50, random_state=0).fit(genes.X[: reference.n_obs].toarray())
    places = fit.transform(genes.X.toarray())
    reference.obsm["X_pca"], rna.obsm["X_pca"] = np.split(places, [reference.n_obs])

    protein = known["protein"]
    measured = protein.to_df("clr")
    scores = {}
    for use_rep in ("X_rna", "X_pca"):
        imputed = mumask.tl.impute_from_neighbors(
            rna, reference, "protein", use_rep=use_rep, layer="clr"
        )
        scores[use_rep] = feature_correlation(imputed, measured.loc[imputed.index])
    print(new, scores)
    for score in ("aSCC", "aPCC"):  # medians over 14 proteins hang on one of them
        assert scores["X_rna"][score] > scores["X_pca"][score]


OTHER_NAMES = {"B cells": "B", "NK cells": "NK"}
SAME_PROTEIN = {
    **{name: name.lower() for name in ("CD127", "CD14", "CD16", "CD19", "CD25", "TIGIT")},
    **{"CD3": "cd3.1", "CD4": "cd4.1", "CD8a": "cd8", "CD56": "cd56.1", "CD45RA": "cd45ra"},
}


def test_a_query_of_another_experiment(mapped, real_data, request):
    """With a tenth of the genes: better than neighbours in the genes that both have."""
    model = mapped[0]
    other = mudata.read_h5mu(real_data / "pbmc_wnn_mosaic.h5mu")
    new = OTHER_NAMES[request.node.callspec.params["mapped"]]
    cells = other.obs_names[other.obs["batch"].isin(["p3_0", "p4_0"])]
    cells = cells[(other.obs.loc[cells, "cell_type"] != new).to_numpy()]
    query = mudata.MuData({name: other[name][cells].copy() for name in ("rna", "protein")})
    mumask.pp.clr(query, axis=1)
    measured = query["protein"].to_df("clr")[list(SAME_PROTEIN.values())]
    query = mudata.MuData({"rna": query["rna"]})

    reference = model.adata.copy()
    mumask.pp.clr(reference, axis=1)
    shared = reference["rna"].var_names.intersection(query["rna"].var_names)
    through = mudata.MuData({"rna": reference["rna"][:, shared].copy()})
    for data, rna in ((query, query), (reference, through)):
        places = MaskedVAE.load_query_data(rna, model).get_latent_representation()
        data.obsm["X_rna"] = places[rna.obs_names.get_indexer(data.obs_names)]

    genes = [data["rna"][data.obs_names, shared].X for data in (reference, query)]
    genes = sc.AnnData(sparse.vstack(genes).tocsr())
    sc.pp.normalize_total(genes, target_sum=1e4)
    sc.pp.log1p(genes)
    fit = PCA(50, random_state=0).fit(genes.X[: reference.n_obs].toarray())
    places = fit.transform(genes.X.toarray())
    reference.obsm["X_pca"], query.obsm["X_pca"] = np.split(places, [reference.n_obs])

    scores = {}
    for use_rep in ("X_rna", "X_pca"):
        options = {"features": list(SAME_PROTEIN), "use_rep": use_rep, "layer": "clr"}
        imputed = mumask.tl.impute_from_neighbors(query, reference, "protein", **options)
        scores[use_rep] = feature_correlation(
            imputed.to_numpy(), measured.loc[imputed.index].to_numpy()
        )
    print(new, scores)
    for score in ("aSCC", "aPCC"):
        assert scores["X_rna"][score] > scores["X_pca"][score]


def test_expected_genes_help(mapped, monkeypatch):
    """Labels, novelty and proteins with half of the genes, and without filling in the others."""
    model, query, kinds, new = mapped
    half = np.random.default_rng(0).permutation(query["rna"].n_vars)[: query["rna"].n_vars // 2]
    rna = mudata.MuData({"rna": query["rna"][:, np.sort(half)].copy()})
    mapped_model = MaskedVAE.load_query_data(rna, model)
    known = (kinds[rna.obs_names] != new).to_numpy()
    measured = np.log1p(query["protein"][rna.obs_names].X.toarray()[known])
    scores = {}
    for kind in ("filled in", "as measured"):
        scores[kind] = known_and_flag(mapped_model, rna, kinds, new)
        protein = mapped_model.get_normalized_expression(modality="protein")[known]
        scores[kind] |= feature_correlation(np.log1p(protein.to_numpy()), measured)
        scores[kind]["flagged"] = mapped_model.annotate()["mumask_new_type"][known].mean()
        monkeypatch.setattr(MosaicBatch, "what_is_lacking", lambda self, tensors: {})
    print(new, scores)
    filled, without = scores.values()
    for score in ("accuracy", "aSCC", "aPCC"):
        assert filled[score] > without[score]
    assert filled["flagged"] <= 0.02
    assert filled["ECE"] <= 0.10
    assert filled["accuracy"] >= 0.76
    assert filled["AUROC"] >= 0.80
