"""Plain baselines from scikit-learn: what a method has to beat to be worth its training."""

from __future__ import annotations

import muon
import numpy as np
from scipy import sparse
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.problem import UNKNOWN, Block, Problem, clr, lognorm

N_COMPONENTS = 30
# Neighbours for labels, for values within a technology, and across technologies.
FOR_LABELS, FOR_VALUES, ACROSS = 15, 30, 50


def _pca(block: Block, seed: int) -> np.ndarray:
    values = lognorm(block.values).toarray()
    return PCA(min(N_COMPONENTS, *values.shape), random_state=seed).fit_transform(values)


def _lsi(block: Block, seed: int) -> np.ndarray:
    """Latent semantic indexing on muon's TF-IDF; its first component is the depth and left out."""
    adata = block.to_anndata()
    adata.X = sparse.csr_matrix(adata.X > 0, dtype=np.float64)
    muon.atac.pp.tfidf(adata, scale_factor=1e4)
    svd = TruncatedSVD(min(N_COMPONENTS + 1, adata.n_vars - 1), random_state=seed)
    return svd.fit_transform(adata.X)[:, 1:]


def _components(problem: Problem, name: str, seed: int) -> np.ndarray:
    block = problem.block(name)
    if name == "protein":
        values = clr(block.values)
        return PCA(min(N_COMPONENTS, values.shape[1]), random_state=seed).fit_transform(values)
    return _lsi(block, seed) if name == "atac" else _pca(block, seed)


def _concat(problem: Problem, seed: int, balanced: bool = True) -> np.ndarray:
    """Components of all modalities side by side; balanced: each with the same total variance."""
    parts = [_components(problem, name, seed) for name in problem.blocks]
    if not balanced:
        return np.hstack(parts)
    return np.hstack([part / np.sqrt(part.var(0).sum()) for part in parts])


def pca_concat(problem, job):
    with job.timed():
        return {"latent": _concat(problem, job.seed)}


def pca_rna(problem, job):
    with job.timed():
        return {"latent": _components(problem, "rna", job.seed)}


def lsi_atac(problem, job):
    with job.timed():
        return {"latent": _components(problem, "atac", job.seed)}


def cca_bridge(problem, job):
    """Canonical correlation of the paired cells, to which cells with one modality are projected."""
    with job.timed():
        names = list(problem.blocks)
        spaces = [_components(problem, name, job.seed) for name in names]
        paired = problem.paired
        inputs = [z[paired[problem.has(n)]] for z, n in zip(spaces, names, strict=True)]
        cca = CCA(min(20, *(x.shape[1] for x in inputs)), max_iter=2000).fit(*inputs)
        total, count = np.zeros((len(paired), cca.n_components)), np.zeros((len(paired), 1))
        for name, z, centre, scale, rotation in zip(
            names,
            spaces,
            (cca._x_mean, cca._y_mean),
            (cca._x_std, cca._y_std),
            (cca.x_rotations_, cca.y_rotations_),
            strict=True,
        ):
            scores = (z - centre) / scale @ rotation
            scores /= scores[paired[problem.has(name)]].std(0)
            total[problem.has(name)] += scores
            count[problem.has(name)] += 1
    return {"latent": total / count}


def logistic(problem, job):
    if problem.query is None:
        seen = problem.obs["label"].to_numpy() != UNKNOWN
        with job.timed():
            latent = _concat(problem, job.seed, balanced=False)
            latent = StandardScaler().fit_transform(latent)
            model = LogisticRegression(max_iter=2000)
            model.fit(latent[seen], problem.obs["label"].to_numpy()[seen])
        return {"labels": model.predict(latent)}
    with job.timed():
        space = PCA(N_COMPONENTS, random_state=job.seed)
        latent = space.fit_transform(lognorm(problem.block("rna").values).toarray())
        model = LogisticRegression(max_iter=2000).fit(latent, problem.obs["label"].to_numpy())
    query = space.transform(lognorm(problem.query.block("rna").values).toarray())
    return {"query_labels": model.predict(query)}


def knn(problem, job):
    """Nearest neighbours: labels and values of those cells that have them."""
    if problem.task == "T1b":
        seen = problem.obs["label"].to_numpy() != UNKNOWN
        with job.timed():
            latent = _concat(problem, job.seed)
            model = KNeighborsClassifier(FOR_LABELS)
            model.fit(latent[seen], problem.obs["label"].to_numpy()[seen])
        return {"labels": model.predict(latent)}
    if problem.query is None:
        return _translate(problem, job, lambda: KNeighborsRegressor(FOR_VALUES))
    if "protein" in problem.targets:
        rna, query = problem.shared("rna")
        with job.timed():
            space = PCA(N_COMPONENTS, random_state=job.seed)
            latent = space.fit_transform(lognorm(rna.values).toarray())
            values = KNeighborsRegressor(FOR_VALUES).fit(
                latent, clr(problem.block("protein").values)
            )
        mapped = space.transform(lognorm(query.values).toarray())
        outputs = {"protein": values.predict(mapped)}
        if "query_labels" in problem.asks:
            with job.timed():
                labels = KNeighborsClassifier(FOR_LABELS)
                labels.fit(latent, problem.obs["label"].to_numpy())
            outputs["query_labels"] = labels.predict(mapped)
        return outputs
    return _impute(problem, job, KNeighborsRegressor(ACROSS, metric="cosine"))


def knn_depth(problem, job):
    """Nearest neighbours, their normalised values brought to the depth of the cell."""
    inputs, depth = _shared(problem)
    hidden = problem.block("rna").subset(features=problem.targets["rna"]).values.toarray()
    with job.timed():
        model = KNeighborsRegressor(ACROSS, metric="cosine")
        model.fit(inputs[0], hidden / np.maximum(depth[0], 1))
    return {"rna": np.log1p(model.predict(inputs[1]) * depth[1])}


def depth(problem, job):
    """The total of a cell as the prediction of every gene: what a score owes to depth alone."""
    total = np.asarray(problem.query.block("rna").values.sum(1))
    return {"rna": np.log1p(np.repeat(total, len(problem.targets["rna"]), axis=1))}


def ridge(problem, job):
    """Ridge regression from all measured features."""
    if problem.query is None:
        return _translate(problem, job, lambda: Ridge(alpha=100.0))
    if "protein" in problem.targets:
        rna, query = problem.shared("rna")
        with job.timed():
            model = make_pipeline(StandardScaler(), Ridge(alpha=1000.0))
            model.fit(lognorm(rna.values).toarray(), clr(problem.block("protein").values))
        return {"protein": model.predict(lognorm(query.values).toarray())}
    return _impute(problem, job, Ridge(alpha=100.0))


def _shared(problem):
    """Genes that both data sets have, standardised in each, and the total of each cell in them."""
    blocks = problem.shared("rna")
    inputs = [StandardScaler().fit_transform(lognorm(b.values).toarray()) for b in blocks]
    return inputs, [np.asarray(b.values.sum(1)) for b in blocks]


def _impute(problem, job, model):
    """From the genes that both data sets have to log1p of the hidden ones."""
    inputs, _ = _shared(problem)
    target = problem.block("rna").subset(features=problem.targets["rna"])
    target = target.values.log1p().toarray()
    with job.timed():
        model.fit(inputs[0], target)
    return {"rna": model.predict(inputs[1])}


def _translate(problem, job, make):
    """Between modalities, learned from the paired cells in principal components and LSI."""
    paired, outputs = problem.paired, {}
    with job.timed():
        for wanted, given in (("rna", "atac"), ("atac", "rna")):
            space = _components(problem, given, job.seed)
            of_given = paired[problem.has(given)]
            truth = problem.block(wanted).subset(features=problem.targets[wanted]).values
            truth = truth[paired[problem.has(wanted)]].log1p().toarray()
            if wanted == "atac":
                truth = np.float64(truth > 0)
            model = make().fit(space[of_given], truth)
            outputs[wanted] = model.predict(space[~of_given])
    return outputs
