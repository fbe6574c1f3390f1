"""T4 and T4b: SNARE-seq, all cells with both modalities, and a fifth of them taken apart."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.problem import Block, Problem

from .base import CORRELATIONS, Task, finite, latent_of, read_mudata

FILE = "mop_snareseq.h5mu"
NO_TYPE = "Mis"
APART = 0.2
# Translated peaks: open in at least this share of cells. Most of the 25,734 peaks are open in a
# handful of the cells taken apart, where a correlation is noise.
OPEN = 0.01
RNA, ATAC = "#rna", "#atac"


def read(data):
    obs, blocks = read_mudata(data / FILE, "cell_type")
    blocks["atac"].values.data[:] = 1.0
    return obs, blocks


def build(data, seed):
    obs, blocks = read(data)
    return Problem("T4", obs[["batch"]], blocks), {"label": obs["label"].to_numpy()}


def score(scorer, problem, truth, outputs):
    typed = truth["label"] != NO_TYPE
    if "latent" not in outputs:
        graph = outputs["graph"].tocsr()[typed][:, typed]
        return scorer.leiden_scores(graph, truth["label"][typed])
    latent = latent_of(outputs, len(problem.obs))[typed]
    batch = problem.obs["batch"].to_numpy()[typed]
    clusters = scorer.cluster_scores(latent, truth["label"][typed])
    return {**clusters, **scorer.batch_mixing(latent, batch)}


def build_unpaired(data, seed):
    """A fifth of the cells become two each, one with the RNA and one with the ATAC."""
    obs, blocks = read(data)
    cells = obs.index.to_numpy()
    chosen = np.random.default_rng(seed).choice(len(cells), int(APART * len(cells)), replace=False)
    apart = np.zeros(len(cells), dtype=bool)
    apart[chosen] = True
    paired, split = cells[~apart], cells[apart]
    parts, tables = {}, [obs.loc[paired, ["batch"]]]
    for name, suffix in (("rna", RNA), ("atac", ATAC)):
        block = blocks[name].subset(cells=np.concatenate([paired, split]))
        renamed = np.concatenate([paired, np.char.add(split.astype(str), suffix)])
        parts[name] = Block(block.values, renamed, block.features)
        tables.append(obs.loc[split, ["batch"]].set_axis(renamed[len(paired) :], axis=0))
    shown = np.asarray((blocks["atac"].values > 0).mean(0)).ravel() >= OPEN
    peaks = blocks["atac"].features[shown]
    problem = Problem(
        "T4b",
        pd.concat(tables).rename_axis("cell"),
        parts,
        targets={"rna": blocks["rna"].features, "atac": peaks},
        asks=("latent", "targets"),
    )
    truth = {
        "rna": np.log1p(blocks["rna"].subset(cells=split).values.toarray()),
        "atac": blocks["atac"].subset(cells=split, features=peaks).values.toarray(),
    }
    return problem, truth


def score_unpaired(scorer, problem, truth, outputs):
    scores = {}
    for name in ("rna", "atac"):
        if name in outputs:
            corr = scorer.feature_corr(finite(outputs[name]), truth[name])
            scores |= {f"{name}_{kind}": value for kind, value in corr.items()}
    if "latent" in outputs:
        latent = latent_of(outputs, len(problem.obs))
        alone = {s: problem.obs.index.str.endswith(s) for s in (RNA, ATAC)}
        scores["foscttm"] = scorer.foscttm(latent[alone[RNA]], latent[alone[ATAC]])
    return scores


RNA_ATAC = Task(
    "T4",
    "Integration of RNA and ATAC",
    "SNARE-seq of mouse motor cortex, 10,309 cells of 12 batches, accessibility binary. Cells "
    "annotated as `Mis` are trained on and not scored.",
    build,
    score,
    {
        "ari": "ARI",
        "nmi": "NMI",
        "silhouette": "silhouette",
        "knn_acc": "kNN acc.",
        "entropy": "batch entropy",
        "ilisi": "iLISI",
    },
)
UNPAIRED = Task(
    "T4b",
    "Translation between RNA and ATAC",
    "The same data; 20 % of the cells (drawn for every seed) are shown as two unlinked cells each, "
    "one with the RNA alone and one with the ATAC alone. RNA decoded from ATAC is compared with "
    "log1p counts, ATAC decoded from RNA with binary accessibility of the peaks that are open in at "
    "least 1 % of cells. FOSCTTM: share of cells nearer than a cell's other half, 0.5 by chance.",
    build_unpaired,
    score_unpaired,
    {f"{m}_{c}": f"{t} {c}" for m, t in (("rna", "RNA"), ("atac", "ATAC")) for c in CORRELATIONS}
    | {"foscttm": "FOSCTTM"},
    lower=("foscttm",),
    seeded_data=True,
)
