"""A run from the command line to its record, with a method that fails and one that does not."""

import json
import sys

import benchmarks.runs as runs
import numpy as np
import pytest
from benchmarks.__main__ import app
from benchmarks.environments import names, python_of
from benchmarks.methods import METHODS, Method, baselines, choose
from benchmarks.records import append, latest, read
from benchmarks.tasks import TASKS
from benchmarks.tasks.base import Task
from benchmarks.worker import Job, run
from typer.testing import CliRunner


@pytest.fixture
def task(problem):
    """Scores the mean of whatever comes back as the prediction."""
    truth = {"rna": problem.blocks["rna"].values[:2, 6:].toarray()}
    return Task(
        "T5",
        "toy",
        "toy",
        lambda data, seed: (problem, truth),
        lambda scorer, problem, truth, out: scorer.feature_corr(out["rna"], truth["rna"]),
        {"mSCC": "mSCC"},
    )


def test_a_run_in_a_process_of_its_own(task, scorer, tmp_path):
    record = runs.execute(task, METHODS["depth alone"], 3, tmp_path, scorer)
    assert "error" not in record, record
    assert record["scores"]["mSCC"] > 0
    assert record["seed"] == 3 and record["machine"]["threads"] == 1
    assert record["peak_mib"] > 0 and record["version"]


def test_a_failure_is_a_record(problem, tmp_path):
    problem.save(tmp_path / "problem")
    job = {
        "function": "baselines:lsi_atac",
        "package": "scikit-learn",
        "seed": 0,
        "settings": {},
        "max_epochs": None,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    result = run(tmp_path)
    assert result["error"] == "KeyError: 'atac'"
    assert json.loads((tmp_path / "result.json").read_text())["error"] == result["error"]


def test_a_method_gets_the_seed_and_the_settings_of_its_run(problem, tmp_path, monkeypatch):
    seen = {}

    def depth(problem, job):
        seen.update(vars(job), drawn=np.random.random())
        return {}

    monkeypatch.setattr(baselines, "depth", depth)
    problem.save(tmp_path / "problem")
    job = {"seed": 7, "settings": {"model": {"a": 1}}, "max_epochs": 4}
    spec = {**job, "function": "baselines:depth", "package": "scikit-learn"}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    assert "error" not in run(tmp_path)
    assert {name: seen[name] for name in job} == job
    assert seen["drawn"] == np.random.RandomState(7).random()


def test_an_environment_that_cannot_be_made_is_a_record(task, scorer, tmp_path):
    peer = Method("X", "baselines:depth", ("T5",), "peer", "x", environment="no_such_pins")
    record = runs.execute(task, peer, 0, tmp_path, scorer)
    assert record["error"].startswith("no environment")
    assert "scores" not in record


def test_settings_of_a_method_and_of_a_study_are_joined():
    base = {"model": {"preset": "scmmae"}, "n_genes": 10}
    assert runs.merged(base, {"model": {"fusion": "addition"}}) == {
        "model": {"preset": "scmmae", "fusion": "addition"},
        "n_genes": 10,
    }


def test_a_job_leaves_defaults_alone_unless_cut():
    assert Job().epochs_option() == {}
    assert Job(max_epochs=4).epochs_option("T") == {"T": 4}
    job = Job(settings={"model": {"a": 1}})
    assert job.options("model", b=2) == {"b": 2, "a": 1}
    with job.timed():
        pass
    assert job.seconds > 0


def test_methods_by_name_and_group():
    assert {m.name for m in choose(["ours"], "T1")} == {
        "MaskedVAE",
        "MaskedVAE inclust+",
        "CrossAttentionMAE",
    }
    assert [m.name for m in choose(["CrossAttentionMAE scmmae"], "T1")] == [
        "CrossAttentionMAE scmmae"
    ]
    assert len(choose(["all", "MaskedVAE"], "T1")) == len(choose(["all"], "T1"))
    with pytest.raises(KeyError, match="no method 'nothing'"):
        choose(["nothing"], "T1")


def test_every_entry_is_complete():
    for method in METHODS.values():
        file, function = method.function.split(":")
        source = (runs.ROOT / "benchmarks" / "methods" / f"{file}.py").read_text()
        assert f"def {function}(" in source, method.name
        assert set(method.tasks) <= set(TASKS), method.name
        assert method.environment is None or method.environment in names(), method.name


def test_the_present_environment_needs_no_making():
    assert str(python_of(None)) == sys.executable


def test_later_records_replace_earlier_ones(records, tmp_path):
    path = tmp_path / "deep" / "runs.jsonl"
    for record in [*records, {**records[0], "seconds": 1.23456789}]:
        append(path, record)
    kept = latest(read([path]))
    assert len(kept) == len(records)
    assert (
        next(r for r in kept if r["method"] == "MaskedVAE" and r["seed"] == 0)["seconds"] == 1.2346
    )


def test_options_take_several_values(monkeypatch):
    """``--seeds 0 1 2`` as people write it, in quotes too, and the positional tasks before them."""
    seen = []
    monkeypatch.setattr("benchmarks.__main__.where", lambda *_: (None, None))
    monkeypatch.setattr(runs, "execute", lambda *args, **kwargs: seen.append(args) or {"error": ""})
    monkeypatch.setattr("benchmarks.__main__._keep", lambda *_: None)
    command = ["run", "T1", "T2", "--methods", "MaskedVAE", "totalVI", "--seeds", "0 1", "2"]
    assert CliRunner().invoke(app, command).exit_code == 0
    plan = {(task.name, method.name, seed) for task, method, seed, *_ in seen}
    assert plan == {
        (task, method, seed)
        for task in ("T1", "T2")
        for method in ("MaskedVAE", "totalVI")
        for seed in (0, 1, 2)
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "T9"], "no task ['T9']"),
        (["run", "T1", "--seeds", "x"], "valid integer"),
        (["run", "T1"], "MUMASK_DATA"),
        (["ablate", "gan"], "no study 'gan'"),
    ],
)
def test_bad_commands_say_what_is_wrong(arguments, said, monkeypatch):
    monkeypatch.delenv("MUMASK_DATA", raising=False)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
