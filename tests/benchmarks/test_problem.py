"""What travels to a method and back."""

import numpy as np
import pytest
from benchmarks.problem import Problem, clr, load_outputs, lognorm, save_outputs
from benchmarks.tasks.base import finite, latent_of
from benchmarks.tasks.spatial import hidden_genes
from scipy import sparse


def test_a_problem_survives_the_journey(problem, tmp_path):
    problem.save(tmp_path / "p")
    back = Problem.load(tmp_path / "p")
    assert back.obs.equals(problem.obs)  # a batch "01" stays text
    assert back.asks == problem.asks
    for name, block in problem.blocks.items():
        assert (back.blocks[name].values != block.values).nnz == 0
        assert (back.blocks[name].cells == block.cells).all()
    assert list(back.targets["rna"]) == ["g6", "g7"]
    assert list(back.query.blocks["rna"].features) == [f"g{i}" for i in range(6)]


def test_rows_are_matched_by_name(problem):
    block = problem.block("protein")
    assert list(block.cells) == [f"c{i}" for i in range(9)]
    assert (block.values[0] != problem.blocks["protein"].values[8]).nnz == 0
    assert problem.paired.sum() == 9
    mdata = problem.to_mudata()
    np.testing.assert_array_equal(mdata["protein"].X.toarray(), block.values.toarray())
    assert list(mdata.obs_names) == list(problem.cells)
    assert list(mdata.obs["batch"]) == list(problem.obs["batch"])


def test_what_both_data_sets_measured_is_in_one_order(problem):
    asked = problem.query.blocks["rna"]
    problem.query.blocks["rna"] = asked.subset(cells=["q1", "q0"], features=asked.features[::-1])
    one, other = problem.shared("rna")
    assert list(one.features) == list(other.features) == [f"g{i}" for i in range(6)]
    np.testing.assert_array_equal(one.values[:2].toarray(), other.values.toarray())


def test_outputs_survive_too(tmp_path):
    graph = sparse.eye(3).tocsr()
    labels = np.array(["a", "b", "a"], dtype=object)
    save_outputs({"latent": np.ones((3, 2)), "labels": labels, "graph": graph}, tmp_path)
    found = load_outputs(tmp_path)
    assert set(found) == {"latent", "labels", "graph"}
    assert list(found["labels"]) == ["a", "b", "a"]
    assert (found["graph"] != graph).nnz == 0


def test_scales():
    values = np.array([[1.0, 3.0, 0.0], [10.0, 30.0, 0.0]])
    np.testing.assert_allclose(clr(values).sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(lognorm(values)[0].toarray(), lognorm(values)[1].toarray())


def test_gaps_become_the_mean_of_the_feature():
    np.testing.assert_allclose(finite([[1.0, np.nan], [3.0, 5.0]]), [[1.0, 5.0], [3.0, 5.0]])


def test_a_latent_space_that_leaves_out_cells_is_no_result():
    with pytest.raises(ValueError, match="not finite"):
        latent_of({"latent": np.array([[0.0], [np.nan]])}, 2)


def test_hidden_genes_depend_on_the_seed_alone(problem):
    from benchmarks.problem import Block

    names = np.array([f"s{i}" for i in range(10)])
    block = Block(sparse.eye(10).tocsr(), names, names)
    shuffled = block.subset(features=names[::-1])
    assert list(hidden_genes(block, shuffled, 1)) == list(hidden_genes(shuffled, block, 1))
    assert len(hidden_genes(block, block, 0)) == 2
