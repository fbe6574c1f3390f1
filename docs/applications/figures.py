"""Figures of these pages: ``python docs/applications/figures.py [NAME ...]``.

Those of real data read the files in the folder named by MUMASK_DATA and are skipped without it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anndata
import matplotlib

matplotlib.use("Agg")
import mudata
import numpy as np
import pandas as pd
import scvi
import seaborn as sns
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from sklearn.cluster import KMeans

import mumask
from mumask import MaskedVAE

HERE = Path(__file__).parent
DATA = os.environ.get("MUMASK_DATA")
THREE = ListedColormap(["#4C72B0", "#DD8452", "#55A868"])  # clusters
OTHER = "#C4CAD2"
LAYERS = {  # annotated excitatory neurons
    "layer 2/3": ("#7A5195", ["eL2/3"]),
    "layer 5": ("#EF5675", ["eL5-2", "eL5-3"]),
    "layer 6": ("#2A9D8F", ["eL6-1", "eL6-2"]),
}
DEPTH = "surface of the cortex  →  white matter"
LAYER_GENES = ["Cux2", "Pcp4", "Sema3e"]  # superficial, layer 5, layer 6


def fit(mdata, epochs, setup, **model) -> MaskedVAE:
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    MaskedVAE.setup_mudata(mdata, **setup)
    model = MaskedVAE(mdata, **model)
    model.train(max_epochs=epochs, enable_progress_bar=False, accelerator="cpu")
    return model


def save(name: str) -> None:
    plt.savefig(HERE / f"{name}.png", dpi=110, bbox_inches="tight")
    plt.close("all")


def section(adata) -> np.ndarray:
    return (adata.obs["batch"].astype(str) == "0").to_numpy()


def scatter(ax, places, values, title, **kwargs):
    points = ax.scatter(*places.T, c=values, s=5, linewidths=0, rasterized=True, **kwargs)
    ax.set(title=title, xticks=[], yticks=[], aspect="equal")
    return points


def imputation() -> None:
    """Layer markers hidden from STARmap and imputed from SNARE-seq RNA."""
    starmap = anndata.read_h5ad(f"{DATA}/mpfc_starmap.h5ad")
    rna = mudata.read_h5mu(f"{DATA}/mop_snareseq.h5mu")["rna"]
    both = starmap.var_names.intersection(rna.var_names)
    genes = [gene for gene in LAYER_GENES if gene in both]
    genes += [g for g in ("Rorb", "Rasgrf2", "Otof", "Tbr1", "Foxp2", "Rprm") if g in both]
    genes = genes[:4]
    seen = starmap[:, ~starmap.var_names.isin(genes)].copy()
    mdata = mumask.pp.concat_batches({"scRNA-seq": rna, "STARmap": seen})
    setup = {"batch_key": "batch"}
    model = fit(mdata, 10, setup)
    imputed = model.impute()["rna"][starmap.obs_names, genes].to_df()
    measured = starmap[:, genes].to_df()
    here, places = section(starmap), starmap.obsm["spatial"]
    _, axes = plt.subplots(2, len(genes), figsize=(3.2 * len(genes), 4.2), layout="constrained")
    for column, gene in zip(axes.T, genes, strict=True):
        r = np.corrcoef(np.log1p(measured[gene]), np.log1p(imputed[gene]))[0, 1]
        for ax, table, name in zip(
            column, (measured, imputed), ("measured", "imputed"), strict=True
        ):
            values = np.log1p(table[gene].to_numpy()[here])
            order = np.argsort(values)
            title = f"{gene}, {name}" + (f" (r = {r:.2f})" if name == "imputed" else "")
            top = np.quantile(values, 0.98) or 1
            points = scatter(ax, places[here][order], values[order], title, vmin=0, vmax=top)
    for ax in axes[1]:
        ax.set_xlabel(DEPTH, fontsize="small")
    bar = plt.colorbar(points, ax=axes, shrink=0.6, ticks=[0, points.norm.vmax])
    bar.ax.set_yticklabels(["none", "high"])  # each panel has a scale of its own
    save("imputation")


def transfer() -> None:
    """Labels and proteins for cells of which only RNA was kept."""
    full = mudata.read_h5mu(f"{DATA}/pbmc10k_citeseq.h5mu")
    asked = np.random.default_rng(0).random(full.n_obs) < 0.3
    model = fit(full[~asked].copy(), 20, {"labels_key": "wnn_cluster"})
    query = mudata.MuData({"rna": full[asked]["rna"].copy()})
    mapped = MaskedVAE.load_query_data(query, model)
    kinds = full.obs["wnn_cluster"][query.obs_names].astype(str)
    order = sorted(kinds.unique(), key=int)
    labels = mapped.predict().astype(str)
    mumask.pl.confusion(
        *(x.astype(pd.CategoricalDtype(order)) for x in (kinds, labels)), show=False
    )
    save("confusion")
    protein = mapped.get_log_expression(modality="protein")
    measured = np.log1p(full["protein"][query.obs_names].to_df())
    mumask.pl.measured_vs_imputed(measured, protein, show=False)
    save("proteins")


def domains() -> None:
    """Clusters of cells by expression alone, and with what surrounds them."""
    starmap = anndata.read_h5ad(f"{DATA}/mpfc_starmap.h5ad")
    mdata = mudata.MuData({"rna": starmap.copy()})
    mdata.obs["section"] = starmap.obs["batch"].astype(str)
    mumask.pp.spatial_context(mdata, n_neighbors=30, batch_key="section")
    here, places = section(starmap), starmap.obsm["spatial"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
    kinds, colors = starmap.obs["cluster"].astype(str), pd.Series(OTHER, starmap.obs_names)
    for color, names in LAYERS.values():
        colors[kinds.isin(names)] = color
    scatter(axes[0], places[here], colors[here], "annotated cell types")
    named = {name: color for name, (color, _) in LAYERS.items()} | {"other cells": OTHER}
    handles = [Line2D([], [], ls="", marker="o", ms=5, color=c, label=n) for n, c in named.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False)
    titles = ("3 clusters by a cell's own genes", "3 clusters by its surroundings")
    for ax, title, use in zip(axes[1:], titles, (["rna"], ["rna", "context"]), strict=True):
        setup = {"modalities": use, "batch_key": "section"}
        model = fit(mdata, 25, setup)
        z = model.get_latent_representation(source=use[-1])
        found = KMeans(3, n_init=10, random_state=0).fit_predict(z)
        scatter(ax, places[here], found[here], title, cmap=THREE)
    for ax in axes:
        ax.set_xlabel(DEPTH, fontsize="small")
    save("domains")


def conditions() -> None:
    """Predicted against true change in a type that was never seen stimulated."""
    donors = {"d1": ("rna", "protein"), "d2": ("rna", "protein"), "d3": ("rna",)}
    design = {"n_features": {"rna": 300, "protein": 30}, "n_cell_types": 6, "return_truth": True}
    factors = {"condition": ("control", "stimulated")}
    mdata, truth = mumask.datasets.simulate_mosaic(400, donors, factors=factors, **design)
    held = (mdata.obs["cell_type"] == "L2b").to_numpy()
    case = (mdata.obs["condition"] == "stimulated").to_numpy()
    train = mdata[~(held & case)].copy()
    setup = {"batch_key": "batch", "categorical_covariate_keys": ["condition"]}
    model = fit(train, 40, setup, arithmetic="subtract")
    cells = train.obs_names[train.obs["cell_type"] == "L2b"]
    _, axes = plt.subplots(1, 2, figsize=(7.4, 3.5), layout="constrained")
    for ax, modality in zip(axes, ("rna", "protein"), strict=True):
        means = [
            model.predict_condition({"condition": c}, indices=cells, modality=modality).mean()
            for c in ("stimulated", "control")
        ]
        predicted = np.log2(means[0] / means[1])
        x = truth[modality].X
        true = np.log2(x[held & case].mean(axis=0) / x[held & ~case].mean(axis=0))
        sns.regplot(x=true, y=predicted, ax=ax, ci=None, scatter_kws={"s": 10}, line_kws={"lw": 1})
        ax.axline((0, 0), slope=1, color="#999999", lw=0.8, ls="--")
        r = np.corrcoef(true, predicted)[0, 1]
        ax.set(xlabel="true log2 change", ylabel="predicted log2 change")
        ax.set_title(f"{len(true)} features of {modality}, r = {r:.2f}")
    save("conditions")


def tissues() -> None:
    """Donors mix and tissues do not, where the donor is registered and the tissue is not."""
    donors = {f"donor{i}": ("rna", "protein") for i in range(4)}
    mdata = mumask.datasets.simulate_mosaic(
        250,
        donors,
        n_features={"rna": 300, "protein": 30},
        n_cell_types=6,
        factors={"tissue": ("blood", "tonsil")},
    )
    import scanpy as sc

    raw = mdata["rna"][mdata.obs_names].copy()
    sc.pp.normalize_total(raw)
    sc.pp.log1p(raw)
    sc.pp.pca(raw, n_comps=20)
    z = fit(mdata, 40, {"batch_key": "batch"}).get_latent_representation()
    mumask.pl.embedding_panels(
        raw.obsm["X_pca"], z, mdata, ["batch", "tissue"], titles=("RNA, PCA", "mumask"), show=False
    )
    save("tissues")


def trimodal() -> None:
    """CITE-seq and ASAP-seq: one space of three modalities."""
    mdata = mumask.datasets.simulate_mosaic(
        500,
        {"CITE-seq": ("rna", "protein"), "ASAP-seq": ("protein", "atac")},
        n_features={"rna": 300, "protein": 60, "atac": 600},
        n_cell_types=6,
    )
    import scanpy as sc

    protein = mdata["protein"][mdata.obs_names].copy()
    sc.pp.log1p(protein)
    sc.pp.pca(protein, n_comps=20)
    z = fit(mdata, 60, {"batch_key": "batch"}).get_latent_representation()
    titles = ("shared protein, PCA", "mumask")
    mumask.pl.embedding_panels(
        protein.obsm["X_pca"], z, mdata, ["batch", "cell_type"], titles=titles, show=False
    )
    save("trimodal")


def states() -> None:
    """A simulated cohort in which one state grows in patients."""
    rng, tables = np.random.default_rng(0), []
    for i in range(30):
        case = i % 2 == 0
        share = np.clip(rng.normal(0.24 if case else 0.15, 0.06), 0.02, 0.6)
        state = rng.choice(["MS1", "B", "T"], 200, p=[share, 0.3, 0.7 - share])
        group = "sepsis" if case else "control"
        tables.append(pd.DataFrame({"donor": f"d{i}", "state": state, "group": group}))
    obs = pd.concat(tables, ignore_index=True)
    scores = mumask.tl.cell_state_auroc(obs, "donor", "state", "group", positive="sepsis")
    shares = mumask.tl.cell_state_proportions(obs, "donor", "state")
    long = shares.join(obs.drop_duplicates("donor").set_index("donor")["group"])
    long = long.melt("group", var_name="state", value_name="share of a sample's cells")
    options = {"data": long, "x": "state", "y": "share of a sample's cells", "hue": "group"}
    _, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
    sns.boxplot(**options, ax=ax, fliersize=0, boxprops={"alpha": 0.5})
    sns.stripplot(**options, ax=ax, dodge=True, size=3, legend=False)
    names = [tick.get_text() for tick in ax.get_xticklabels()]
    ax.set_xticks(range(len(names)), [f"{n}\nAUROC {scores['auroc'][n]:.2f}" for n in names])
    ax.spines[["top", "right"]].set_visible(False)
    save("states")


FIGURES = [states, conditions, tissues, trimodal]
REAL = [domains, imputation, transfer]

if __name__ == "__main__":
    for figure in FIGURES + REAL:
        if len(sys.argv) > 1 and figure.__name__ not in sys.argv[1:]:
            continue
        if figure in REAL and not DATA:
            print(f"{figure.__name__}: skipped, MUMASK_DATA names no folder")
            continue
        figure()
        print(figure.__name__)
