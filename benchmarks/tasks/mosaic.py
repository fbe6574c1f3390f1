"""T2: a mosaic with one RNA-only batch, one protein-only batch and two with both."""

from __future__ import annotations

from sklearn.neighbors import KNeighborsClassifier

from benchmarks.problem import Problem

from .base import Task, latent_of, read_mudata

FILE = "pbmc_wnn_mosaic.h5mu"
RNA_ONLY, PROTEIN_ONLY = "p1_0", "p2_0"


def build(data, seed):
    obs, blocks = read_mudata(data / FILE, "cell_type")
    return Problem("T2", obs[["batch"]], blocks), {"label": obs["label"].to_numpy()}


def score(scorer, problem, truth, outputs):
    latent, label = latent_of(outputs, len(problem.obs)), truth["label"]
    batch = problem.obs["batch"].to_numpy()
    scores = {**scorer.cluster_scores(latent, label), **scorer.batch_mixing(latent, batch)}
    shown, asked = batch == RNA_ONLY, batch == PROTEIN_ONLY
    knn = KNeighborsClassifier(15).fit(latent[shown], label[shown])
    return {**scores, "transfer": float(knn.score(latent[asked], label[asked]))}


MOSAIC = Task(
    "T2",
    "Mosaic integration",
    "1,600 PBMC in four batches: RNA only, protein only, twice both. Transfer: the RNA-only batch "
    "labels the protein-only batch (15 nearest neighbours in the latent space).",
    build,
    score,
    {
        "ari": "ARI",
        "nmi": "NMI",
        "silhouette": "silhouette",
        "knn_acc": "kNN acc.",
        "transfer": "transfer",
        "entropy": "batch entropy",
        "ilisi": "iLISI",
    },
)
