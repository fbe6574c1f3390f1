"""The README: its code runs, its table is that of the records, its links lead somewhere."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import mudata
import pytest
from matplotlib import pyplot as plt

import mumask

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
if not (ROOT / "docs").is_dir():
    pytest.skip("not run from a checkout: docs/ is not there", allow_module_level=True)

LINK = re.compile(r'(?:\]\(|src=")(?!https?:)([^)"#]+)')


def test_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = mumask.MaskedVAE.train
    monkeypatch.setattr(mumask.MaskedVAE, "train", lambda self: train(self, max_epochs=2))
    mumask.datasets.simulate_mosaic(40, n_features={"rna": 80, "protein": 10, "atac": 120}).write(
        tmp_path / "mosaic.h5mu"
    )
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    plt.close("all")
    assert isinstance(names["complete"], mudata.MuData)
    assert names["mdata"].obsm["X_mumask"].shape[0] == names["mdata"].n_obs


def test_table_is_that_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    before = set(sys.modules)
    try:
        from benchmarks.readme_table import fill

        assert fill() == README.read_text(), "old: run python -m benchmarks.readme_table"
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] == "benchmarks":
                sys.modules.pop(name)


def test_links_lead_somewhere():
    links = LINK.findall(README.read_text())
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_links_on_pypi_are_absolute():
    """What the build makes of the README has no link to a file beside it."""
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"][
        "hooks"
    ]["fancy-pypi-readme"]
    text = README.read_text()
    for change in hook["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert LINK.findall(text) == []
    assert (
        "raw.githubusercontent.com/mumask/mumask/v$HFPR_VERSION/docs/_static/overview.svg" in text
    )


def test_both_papers_are_cited():
    text = README.read_text()
    for doi in ("10.1186/s12859-024-05656-2", "10.1093/bib/bbaf010"):
        assert doi in text
