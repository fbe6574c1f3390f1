"""T3: a CITE-seq reference, and a query of which only the RNA was measured."""

from __future__ import annotations

from sklearn.model_selection import train_test_split

from benchmarks.problem import Problem, clr

from .base import CORRELATIONS, Task, finite, label_scores, read_mudata
from .fusion import FILE, LABELS

QUERY_SHARE = 0.3


def build(data, seed):
    obs, blocks = read_mudata(data / FILE, LABELS)
    reference, query = train_test_split(
        obs.index.to_numpy(), test_size=QUERY_SHARE, random_state=seed
    )
    shown = obs.loc[query, ["batch"]].assign(batch="query")
    problem = Problem(
        "T3",
        obs.loc[reference],
        {name: block.subset(cells=reference) for name, block in blocks.items()},
        Problem("T3", shown, {"rna": blocks["rna"].subset(cells=query)}),
        {"protein": blocks["protein"].features},
        ("query_labels", "targets"),
    )
    truth = {
        "label": obs.loc[query, "label"].to_numpy(),
        "protein": clr(blocks["protein"].subset(cells=query).values),
    }
    return problem, truth


def score(scorer, problem, truth, outputs):
    scores = {}
    if "protein" in outputs:
        scores |= scorer.feature_corr(finite(outputs["protein"]), truth["protein"])
    if "query_labels" in outputs:
        scores |= label_scores(truth["label"], outputs["query_labels"].astype(str))
    return scores


QUERY = Task(
    "T3",
    "Mapping of an RNA-only query",
    "PBMC 10k CITE-seq split by cells: 70 % are the labelled reference, 30 % the query, from which "
    "protein and labels are removed (a new split for every seed). Generated protein is compared "
    "with the measured on one scale for all methods, the centred log-ratio over a cell's 14 "
    "proteins; methods that predict counts get the same transformation, expected logarithms (ours: "
    "`get_log_expression`) are centred.",
    build,
    score,
    {**{name: name for name in CORRELATIONS}, "accuracy": "accuracy", "macro_f1": "macro-F1"},
    seeded_data=True,
)
