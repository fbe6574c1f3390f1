"""T1 and T1b: one paired CITE-seq data set, without labels and with a few."""

from __future__ import annotations

import numpy as np

from benchmarks.problem import UNKNOWN, Problem

from .base import Task, label_scores, latent_of, read_mudata

FILE = "pbmc10k_citeseq.h5mu"
LABELS = "wnn_cluster"
SHARE, SPLIT = 0.3, 42


def build(data, seed):
    obs, blocks = read_mudata(data / FILE, LABELS)
    return Problem("T1", obs[["batch"]], blocks), {"label": obs["label"].to_numpy()}


def score(scorer, problem, truth, outputs):
    if "latent" in outputs:
        return scorer.cluster_scores(latent_of(outputs, len(problem.obs)), truth["label"])
    return scorer.leiden_scores(outputs["graph"], truth["label"])


def build_few(data, seed):
    obs, blocks = read_mudata(data / FILE, LABELS)
    from sklearn.model_selection import train_test_split

    # as the scorer's label_split(n, 0.3, 42); score_few makes sure that it is
    seen, _ = train_test_split(np.arange(len(obs)), train_size=SHARE, random_state=SPLIT)
    shown = obs.copy()
    hidden = np.ones(len(obs), dtype=bool)
    hidden[seen] = False
    shown.loc[hidden, "label"] = UNKNOWN
    problem = Problem("T1b", shown, blocks, asks=("labels", "latent"))
    return problem, {"label": obs["label"].to_numpy()}


def score_few(scorer, problem, truth, outputs):
    unseen = ~scorer.label_split(len(problem.obs), SHARE, SPLIT)
    if (problem.obs["label"].to_numpy()[unseen] != UNKNOWN).any():
        raise RuntimeError("A cell to be scored was shown with its label.")
    label, scores = truth["label"][unseen], {}
    if "labels" in outputs:
        scores |= label_scores(label, outputs["labels"].astype(str)[unseen])
    if "latent" in outputs:
        scores |= scorer.cluster_scores(latent_of(outputs, len(problem.obs))[unseen], label)
    return scores


CLUSTERS = {
    "ari": "ARI",
    "nmi": "NMI",
    "fmi": "FMI",
    "ari_res1": "ARI at 1.0",
    "nmi_res1": "NMI at 1.0",
    "silhouette": "silhouette",
    "knn_acc": "kNN acc.",
}
FUSION = Task(
    "T1",
    "Fusion of RNA and protein",
    "PBMC 10k CITE-seq, 6,855 cells, no labels. The reference clusters come from a WNN analysis of "
    "both modalities, so a WNN graph is a circular upper reference and no competitor.",
    build,
    score,
    CLUSTERS,
)
FEW_LABELS = Task(
    "T1b",
    "Cell types from few labels",
    "The same cells; 30 % of the labels are shown. Every score is taken on the 70 % of cells whose "
    "labels were hidden.",
    build_few,
    score_few,
    {
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "ari": "ARI",
        "nmi": "NMI",
        "knn_acc": "kNN acc.",
    },
)
