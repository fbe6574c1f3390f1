"""Every task on files of a few cells: what is asked for is not shown, and the truth is that of the cells asked."""

from types import SimpleNamespace

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from benchmarks.problem import UNKNOWN, clr
from benchmarks.tasks import TASKS, experiment, fusion, mosaic, rna_atac, spatial
from benchmarks.tasks.base import label_scores
from sklearn.model_selection import train_test_split

from mumask.data import keep_order

N_CELLS = 80
SEEDED = [name for name, task in TASKS.items() if task.seeded_data]


def counts(cells, features, seed: int) -> anndata.AnnData:
    """Counts that tell cells and features apart, the cells in an order of their own."""
    rng = np.random.default_rng(seed)
    values = rng.poisson(3.0, (len(cells), len(features))).astype(np.float32)
    adata = anndata.AnnData(
        values, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=list(features))
    )
    return adata[rng.permutation(len(cells))].copy()


def write(path, modalities, **columns):
    with keep_order():
        mdata = mudata.MuData(modalities)
    for name, values in columns.items():
        mdata.obs[name] = pd.Series(dict(values)).reindex(mdata.obs_names)
    with keep_order():
        mdata.write_h5mu(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of the tasks' data."""
    folder = tmp_path_factory.mktemp("data")
    genes = [f"g{i}" for i in range(12)]
    cells = [f"c{i}" for i in range(N_CELLS)]
    proteins = list(experiment.PROTEINS)[::-1]
    types = list(zip(cells, ["a", "b", "c", "a"] * (N_CELLS // 4), strict=True))
    write(
        folder / fusion.FILE,
        {"rna": counts(cells, genes, 0), "protein": counts(cells, proteins, 1)},
        batch=[(cell, "x") for cell in cells],
        **{fusion.LABELS: types},
    )
    write(
        folder / rna_atac.FILE,
        {"rna": counts(cells, genes, 2), "atac": counts(cells, ["p0", "p1", "p2"], 3)},
        batch=[(cell, "xy"[i % 2]) for i, cell in enumerate(cells)],
        cell_type=[(cell, kind if kind != "c" else rna_atac.NO_TYPE) for cell, kind in types],
    )
    batch = [(cell, f"p{1 + i // 4 % 4}_0") for i, cell in enumerate(cells)]
    has = {
        "rna": [cell for cell, name in batch if name != mosaic.PROTEIN_ONLY],
        "protein": [cell for cell, name in batch if name != mosaic.RNA_ONLY],
    }
    others = sorted(experiment.PROTEINS.values())
    write(
        folder / mosaic.FILE,
        {
            "rna": counts(has["rna"], ["new", *genes[:5:-1]], 4),
            "protein": counts(has["protein"], [*others, "more"], 5),
        },
        batch=batch,
        cell_type=types,
    )
    counts([f"s{i}" for i in range(9)], ["only", *genes[2:]], 6).write_h5ad(folder / spatial.FILE)
    return folder


@pytest.fixture(scope="module")
def measured(files):
    """Values by file and modality, cells x features."""
    found = {}
    for module in (fusion, rna_atac, mosaic):
        with keep_order():
            mdata = mudata.read_h5mu(files / module.FILE)
        found[module.FILE] = {name: adata.to_df() for name, adata in mdata.mod.items()}
    found[spatial.FILE] = anndata.read_h5ad(files / spatial.FILE).to_df()
    return found


@pytest.fixture
def scorer():
    """Scores that say what they were given."""

    def split(n_cells, share, seed):
        seen = np.zeros(n_cells, dtype=bool)
        seen[train_test_split(np.arange(n_cells), train_size=share, random_state=seed)[0]] = True
        return seen

    return SimpleNamespace(
        label_split=split,
        cluster_scores=lambda latent, label: {"clustered": (latent, label)},
        leiden_scores=lambda graph, label: {"leiden": (graph, label)},
        batch_mixing=lambda latent, batch: {"mixed": (latent, batch)},
        feature_corr=lambda found, truth: {"difference": float(np.abs(found - truth).max())},
        foscttm=lambda one, other: float(np.abs(one - other).max()),
    )


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_draws_what_is_hidden_only_where_the_report_says_so(name, files):
    def shown(seed):
        problem, truth = TASKS[name].build(files, seed)
        query = [] if problem.query is None else list(problem.query.obs.index)
        targets = [list(features) for features in problem.targets.values()]
        return list(problem.obs.index), query, targets, {k: v.tolist() for k, v in truth.items()}

    assert shown(0) == shown(0)
    assert (shown(0) != shown(1)) == (name in SEEDED)


def test_the_reference_is_all_that_a_query_shows_of_its_labels_and_proteins(files, measured):
    problem, truth = TASKS["T3"].build(files, 0)
    query, table = problem.query, measured[fusion.FILE]
    assert list(query.blocks) == ["rna"] and list(query.obs) == ["batch"]
    assert not set(query.cells) & set(problem.cells)
    assert len(query.cells) == round(0.3 * N_CELLS)
    assert len(query.cells) + len(problem.cells) == N_CELLS
    for block in problem.blocks.values():
        assert set(block.cells) == set(problem.cells)
    proteins = table["protein"].loc[query.cells, problem.targets["protein"]]
    np.testing.assert_allclose(truth["protein"], clr(proteins.to_numpy()), rtol=1e-6)
    number = [int(cell[1:]) for cell in query.cells]
    assert list(truth["label"]) == [["a", "b", "c", "a"][i % 4] for i in number]


def test_few_labels_are_shown_and_the_others_scored(files, scorer):
    problem, truth = TASKS["T1b"].build(files, 0)
    number = [int(cell[1:]) for cell in problem.cells]
    known = np.array([["a", "b", "c", "a"][i % 4] for i in number])
    assert list(truth["label"]) == list(known)
    label = problem.obs["label"].to_numpy()
    hidden = label == UNKNOWN
    assert (label[~hidden] == known[~hidden]).all()
    assert (~hidden).sum() == round(0.3 * N_CELLS)
    # wrong wherever a label was shown: none of that counts
    found = np.where(hidden, known, "wrong")
    latent = np.arange(N_CELLS, dtype=float)[:, None]
    scores = TASKS["T1b"].score(scorer, problem, truth, {"labels": found, "latent": latent})
    assert scores["accuracy"] == scores["macro_f1"] == 1.0
    places, names = scores["clustered"]
    assert list(places[:, 0]) == list(np.flatnonzero(hidden)) and list(names) == list(known[hidden])
    problem.obs["label"] = known
    with pytest.raises(RuntimeError, match="shown"):
        TASKS["T1b"].score(scorer, problem, truth, {"labels": found})


def test_a_query_of_another_experiment_is_answered_in_the_proteins_of_the_reference(
    files, measured
):
    problem, truth = TASKS["T3b"].build(files, 0)
    query, table = problem.query, measured[mosaic.FILE]
    assert list(query.blocks) == ["rna"] and list(query.obs) == ["batch"]
    assert set(query.blocks["rna"].features) == {f"g{i}" for i in range(6, 12)}
    assert set(query.obs["batch"]) == {"query"}
    assert list(problem.obs) == ["batch"] and len(query.cells) == N_CELLS // 2
    own = [experiment.PROTEINS[name] for name in problem.targets["protein"]]
    values = table["protein"].loc[query.cells, own].to_numpy()
    np.testing.assert_allclose(truth["protein"], clr(values), rtol=1e-6)


def test_cells_taken_apart_share_no_name(files, measured):
    problem, truth = TASKS["T4b"].build(files, 0)
    table = measured[rna_atac.FILE]
    lone = {
        "rna": problem.cells[~problem.has("atac")],
        "atac": problem.cells[~problem.has("rna")],
    }
    assert len(lone["rna"]) == len(lone["atac"]) == N_CELLS // 5
    names = [cell.removesuffix(rna_atac.RNA) for cell in lone["rna"]]
    assert names == [cell.removesuffix(rna_atac.ATAC) for cell in lone["atac"]]
    assert not set(names) & set(problem.cells)
    # what is predicted of the cells that lack a modality is what their other halves have
    np.testing.assert_allclose(truth["rna"], np.log1p(table["rna"].loc[names]))
    peaks = table["atac"].loc[names, problem.targets["atac"]] > 0
    np.testing.assert_array_equal(truth["atac"], peaks)
    shown = problem.block("rna").subset(cells=lone["rna"]).values.toarray()
    np.testing.assert_array_equal(shown, table["rna"].loc[names])


@pytest.mark.parametrize("name", ["T5", "T5b"])
def test_hidden_genes_are_not_in_the_query(name, files, measured):
    problem, truth = TASKS[name].build(files, 3)
    query, genes = problem.query, problem.targets["rna"]
    assert len(genes) == 2 and not set(genes) & set(query.blocks["rna"].features)
    assert set(genes) <= set(problem.blocks["rna"].features)
    assert not set(query.cells) & set(problem.cells)
    assert "label" not in query.obs and "label" not in problem.obs
    table = measured[spatial.FILE] if name == "T5" else measured[rna_atac.FILE]["rna"]
    np.testing.assert_allclose(truth["rna"], np.log1p(table.loc[query.cells, genes]))
    assert len(query.cells) == (9 if name == "T5" else N_CELLS // 5)


def test_the_rna_batch_labels_the_protein_batch(files, scorer):
    problem, truth = TASKS["T2"].build(files, 0)
    batch = problem.obs["batch"].to_numpy()
    asked = batch == mosaic.PROTEIN_ONLY
    right = (truth["label"][asked] == "a").mean()
    assert 0 < right < 1
    truth["label"][batch == mosaic.RNA_ONLY] = "a"  # the only votes
    scores = TASKS["T2"].score(scorer, problem, truth, {"latent": np.zeros((N_CELLS, 1))})
    assert scores["transfer"] == right
    assert list(scores["mixed"][1]) == list(batch)


def test_cells_of_no_type_are_not_scored(files, scorer):
    problem, truth = TASKS["T4"].build(files, 0)
    assert "label" not in problem.obs and set(problem.blocks["atac"].values.data) == {1.0}
    typed = np.flatnonzero(truth["label"] != rna_atac.NO_TYPE)
    assert 0 < len(typed) < N_CELLS
    latent = np.arange(N_CELLS, dtype=float)[:, None]
    scores = TASKS["T4"].score(scorer, problem, truth, {"latent": latent})
    assert list(scores["clustered"][0][:, 0]) == list(typed)
    assert list(scores["mixed"][1]) == list(problem.obs["batch"].to_numpy()[typed])


def test_macro_f1_counts_every_type_alike():
    truth, found = np.array(["a"] * 8 + ["b", "b"]), np.array(["a"] * 10)
    scores = label_scores(truth, found)
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["macro_f1"] == pytest.approx((16 / 18 + 0) / 2)
