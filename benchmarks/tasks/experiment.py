"""T3b: the whole CITE-seq reference, and a query of another experiment with another panel."""

from __future__ import annotations

from benchmarks.problem import Problem, clr

from . import fusion, mosaic
from .base import CORRELATIONS, Task, finite, read_mudata

BATCHES = ("p3_0", "p4_0")
# Names of the reference's proteins in the query.
PROTEINS = {
    **{name: name.lower() for name in ("CD127", "CD14", "CD15", "CD16", "CD19", "CD25")},
    **{"CD3": "cd3.1", "CD45RA": "cd45ra", "CD45RO": "cd45ro", "CD4": "cd4.1", "CD56": "cd56.1"},
    **{"CD8a": "cd8", "PD-1": "cd279", "TIGIT": "tigit"},
}


def build(data, seed):
    obs, blocks = read_mudata(data / fusion.FILE, fusion.LABELS)
    others, measured = read_mudata(data / mosaic.FILE, "cell_type")
    query = others.index[others["batch"].isin(BATCHES)].to_numpy()
    genes = measured["rna"].features
    genes = genes[[gene in set(blocks["rna"].features) for gene in genes]]
    proteins = blocks["protein"].features
    problem = Problem(
        "T3b",
        obs[["batch"]],
        blocks,
        Problem(
            "T3b",
            others.loc[query, ["batch"]].assign(batch="query"),
            {"rna": measured["rna"].subset(cells=query, features=genes)},
        ),
        {"protein": proteins},
        ("targets",),
    )
    names = [PROTEINS[name] for name in proteins]
    truth = measured["protein"].subset(cells=query, features=names)
    return problem, {"protein": clr(truth.values)}


def score(scorer, problem, truth, outputs):
    return scorer.feature_corr(finite(outputs["protein"]), truth["protein"])


EXPERIMENT = Task(
    "T3b",
    "Mapping of a query of another experiment",
    "PBMC 10k CITE-seq is the reference, 800 PBMC of two donors of another study (GSE164378) the "
    "query, of which 424 of the reference's 4,000 genes are there. Its 14 proteins are removed and "
    "predicted, and compared as in T3. Peers and baselines learn from the genes that both have, "
    "anew for this query; our models map it onto a reference trained once, on all genes.",
    build,
    score,
    {name: name for name in CORRELATIONS},
)
