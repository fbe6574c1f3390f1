"""T5 and T5b: genes that one data set did not measure, imputed from another."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

from benchmarks.problem import Problem

from .base import CORRELATIONS, Task, block_of, finite
from .rna_atac import read

FILE = "mpfc_starmap.h5ad"
HIDDEN, HELD_OUT = 0.2, 0.2


def hidden_genes(reference, spatial, seed):
    """A fifth of the genes that both measured: ``default_rng(seed).choice`` of the sorted names."""
    shared = np.intersect1d(reference.features, spatial.features)
    n_hidden = round(HIDDEN * len(shared))
    return np.sort(np.random.default_rng(seed).choice(shared, n_hidden, replace=False))


def without(block, genes):
    return block.subset(features=block.features[~np.isin(block.features, genes)])


def problem_of(name, obs, reference, query, genes):
    """The query loses the genes, the reference keeps everything."""
    shown = pd.DataFrame({"batch": "query"}, index=pd.Index(query.cells, name="cell"))
    problem = Problem(
        name,
        obs.loc[reference.cells, ["batch"]].assign(batch="reference"),
        {"rna": reference},
        Problem(name, shown, {"rna": without(query, genes)}),
        {"rna": genes},
        ("targets",),
    )
    return problem, {"rna": np.log1p(query.subset(features=genes).values.toarray())}


def build(data, seed):
    obs, blocks = read(data)
    spatial = block_of(anndata.read_h5ad(data / FILE))
    genes = hidden_genes(blocks["rna"], spatial, seed)
    return problem_of("T5", obs, blocks["rna"], spatial, genes)


def build_same(data, seed):
    """The same genes, hidden from a fifth of the cells of the reference itself."""
    obs, blocks = read(data)
    genes = hidden_genes(blocks["rna"], block_of(anndata.read_h5ad(data / FILE)), seed)
    cells = obs.index.to_numpy()
    chosen = np.random.default_rng(seed).choice(
        len(cells), int(HELD_OUT * len(cells)), replace=False
    )
    query = np.isin(np.arange(len(cells)), chosen)
    rna = blocks["rna"]
    return problem_of(
        "T5b", obs, rna.subset(cells=cells[~query]), rna.subset(cells=cells[query]), genes
    )


def score(scorer, problem, truth, outputs):
    return scorer.feature_corr(finite(outputs["rna"]), truth["rna"])


SPATIAL = Task(
    "T5",
    "Imputation of genes in spatial data",
    "STARmap of mouse prefrontal cortex (3,704 cells) from the RNA of SNARE-seq of motor cortex: 20 % "
    "of the 82 shared genes (drawn for every seed) are removed from the STARmap data and compared "
    "with log1p counts. Another area and a sparse reference: near zero for everyone, a floor to "
    "stand above and no proof of skill.",
    build,
    score,
    {name: name for name in CORRELATIONS},
    seeded_data=True,
)
HIDDEN_GENES = Task(
    "T5b",
    "Imputation of genes in held-out cells",
    "The same genes, removed from 20 % of the SNARE-seq cells; the other cells are the reference.",
    build_same,
    score,
    {name: name for name in CORRELATIONS},
    seeded_data=True,
)
