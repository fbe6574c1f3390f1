"""``mumask demo``: the main job on simulated data, with pictures and scores against the truth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import pandas as pd
import scvi
import typer
from anndata import AnnData
from mudata import MuData

from mumask import MaskedVAE, datasets, metrics, pl
from mumask.pl._embedding import umap

from ._files import check_output, write, write_mudata
from ._session import InputError, fit, session, set_threads

# Three technologies; the first is the bridge between the others, which share no feature. The
# third measured part of the genes, as targeted panels do.
BATCHES = {"CITE-seq": ("rna", "protein"), "ASAP-seq": ("protein", "atac"), "RNA-only": ("rna",)}
PANELS = {"RNA-only": {"rna": 0.8}}
FEATURES = {"rna": 1000, "protein": 100, "atac": 3000}
LATENT = 6  # programmes that tell the cell types apart
N_CELLS = 1000
BEFORE, AFTER = "zero-filled PCA", "mumask"


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")
    ] = Path("mumask_demo"),
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data; by default about 2,400 steps.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data and the training.")] = 0,
    n_cells: Annotated[int, typer.Option(min=50, help="Cells per batch.")] = N_CELLS,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
) -> None:
    """Simulate a mosaic, integrate it and compare with the truth; takes about a minute.

    Writes to DIR: mosaic.png, training.png, umap.png, imputed_protein.png, imputed_rna.png,
    metrics.csv and integrated.h5mu. Files of an earlier demo are replaced.
    """
    start = time.perf_counter()
    with session(debug):
        if output.exists() and not output.is_dir():
            raise InputError(f"{output} is a file; name a folder.")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{output} cannot be made: {error.strerror}.") from error
        check_output(output / "integrated.h5mu", overwrite=True)
        matplotlib.use("agg")
        mdata, truth = datasets.simulate_mosaic(
            n_cells, BATCHES, FEATURES, n_latent=LATENT, panels=PANELS, seed=seed, return_truth=True
        )
        typer.echo(
            f"Simulated {mdata.n_obs:,} cells: CITE-seq (RNA + protein), ASAP-seq (protein + peaks) "
            "and RNA-only."
        )
        MaskedVAE.setup_mudata(mdata, batch_key="batch")
        set_threads(1, 0)
        scvi.settings.seed = seed
        model = MaskedVAE(mdata)
        fit(model.train, max_epochs)
        before = zero_filled_pca(mdata, seed)
        mdata.obsm["X_mumask"] = model.get_latent_representation()
        complete = model.impute()
        mdata.obsm["X_umap"] = umap(mdata.obsm["X_mumask"], seed)

        table = pd.concat([_integration(mdata, before), _imputation(mdata, complete, truth)])
        write(output / "metrics.csv", lambda path: table.to_csv(path, index=False))
        _draw(output, mdata, model, umap(before, seed), complete, truth)
        write_mudata(mdata, output / "integrated.h5mu")
        _show(table)
        typer.echo(f"\n{output}/ after {time.perf_counter() - start:.0f} s:")
        for name, what in (
            ("umap.png", "cells before and after, by cell type and by batch"),
            ("mosaic.png", "which batch measured what"),
            ("imputed_protein.png", "proteins of RNA-only cells against the truth"),
            ("imputed_rna.png", "genes of ASAP-seq cells, measured in none of them"),
            ("training.png", "the course of the training"),
            ("metrics.csv", "the table above"),
            ("integrated.h5mu", 'the data with obsm["X_mumask"] and obsm["X_umap"]'),
        ):
            typer.echo(f"  {name:20} {what}")


def zero_filled_pca(mdata: MuData, seed: int) -> np.ndarray:
    """What one does without a mosaic model: normalise, put zeros for what is missing, PCA."""
    from sklearn.decomposition import PCA

    blocks = []
    for adata in mdata.mod.values():
        counts = adata.X.toarray()
        counts = np.log1p(counts / counts.sum(1, keepdims=True) * np.median(counts.sum(1)))
        block = np.zeros((mdata.n_obs, adata.n_vars), dtype=np.float32)
        block[mdata.obs_names.get_indexer(adata.obs_names)] = counts
        blocks.append(block / np.sqrt(block.var(0).sum()))  # modalities weigh the same
    return PCA(20, random_state=seed).fit_transform(np.hstack(blocks))


def _integration(mdata: MuData, before: np.ndarray) -> pd.DataFrame:
    batch, types = mdata.obs["batch"].to_numpy(), mdata.obs["cell_type"].to_numpy()

    def transfer(latent, source, target):
        a, b = batch == source, batch == target
        return metrics.label_transfer_accuracy(latent[a], types[a], latent[b], types[b])

    scores = {
        "batch mixing (entropy, 0 to 1)": lambda z: metrics.batch_entropy_mixing(
            z, batch, scaled=True
        ),
        "cell types apart (silhouette, 0 to 1)": lambda z: metrics.silhouette(z, types),
        "labels CITE-seq -> RNA-only (accuracy)": lambda z: transfer(z, "CITE-seq", "RNA-only"),
        "labels CITE-seq -> ASAP-seq (accuracy)": lambda z: transfer(z, "CITE-seq", "ASAP-seq"),
        "labels RNA-only -> ASAP-seq (accuracy)": lambda z: transfer(z, "RNA-only", "ASAP-seq"),
    }
    rows = [
        ("integration", name, score(before), score(mdata.obsm["X_mumask"]))
        for name, score in scores.items()
    ]
    return pd.DataFrame(rows, columns=["about", "score", BEFORE, AFTER])


def _expressed(truth: AnnData) -> np.ndarray:
    """Features with a count in at least 2 % of the cells; of the others nothing can be learnt."""
    return truth.X.mean(0) >= 0.02


def _imputation(mdata: MuData, complete: MuData, truth: dict) -> pd.DataFrame:
    """Correlation with the noise-free truth where nothing was measured, median over features."""
    batch, rows = complete.obs["batch"].to_numpy(), []

    def add(what, modality, cells, features=True):
        features = features & _expressed(truth[modality])
        imputed = np.log1p(complete[modality].X[cells][:, features])
        true = np.log1p(truth[modality][complete.obs_names].X[cells][:, features])
        score = metrics.feature_correlation(imputed, true)["mPCC"]
        rows.append(("imputation", what, np.nan, score))

    add("proteins of RNA-only cells", "protein", batch == "RNA-only")
    add("genes of ASAP-seq cells", "rna", batch == "ASAP-seq")
    panel = mdata["rna"].varm["measured"]["RNA-only"].to_numpy()
    add("genes off the RNA-only panel", "rna", batch == "RNA-only", ~panel)
    add("peaks of CITE-seq cells", "atac", batch == "CITE-seq")
    return pd.DataFrame(rows, columns=["about", "score", BEFORE, AFTER])


def _draw(output: Path, mdata: MuData, model, before, complete: MuData, truth: dict) -> None:
    def save(name, plot, *args, **kwargs):
        write(output / name, lambda path: plot(*args, show=False, save=path, **kwargs))
        matplotlib.pyplot.close("all")

    save("mosaic.png", pl.mosaic, mdata, "batch")
    keys = ["loss", "reconstruction_loss", "kl_local"]
    save("training.png", pl.training_curves, model, keys, skip=1)
    titles = ("before: " + BEFORE, "after: " + AFTER)
    save("umap.png", pl.embedding_panels, before, mdata.obsm["X_umap"], mdata, titles=titles)
    for modality, batch in (("protein", "RNA-only"), ("rna", "ASAP-seq")):
        cells = complete.obs_names[complete.obs["batch"] == batch]
        seen = _expressed(truth[modality])
        true, imputed = truth[modality][cells, seen], complete[modality][cells, seen]
        save(f"imputed_{modality}.png", _against_truth, true, imputed)


def _against_truth(true, imputed, show, save) -> None:
    axes = pl.measured_vs_imputed(true, imputed, log1p=True, show=False)
    for ax in axes[1:]:
        ax.set_xlabel("truth (log1p)")
    axes[0].figure.savefig(save, bbox_inches="tight", dpi=200)


def _show(table: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="Scores: higher is better")
    shown.add_column("")
    for name in (BEFORE, AFTER):
        shown.add_column(name, justify="right")
    for about, rows in table.groupby("about", sort=False):
        if about == "imputation":
            shown.add_row("imputed values: median correlation with the truth", style="dim")
        for row in rows.itertuples(index=False):
            values = ["-" if np.isnan(value) else f"{value:.2f}" for value in row[2:]]
            shown.add_row(row[1], *values)
        shown.add_section()
    Console().print(shown)
