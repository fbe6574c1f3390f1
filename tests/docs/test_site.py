"""The site says what the package does: every name has its page, drawings are those of their code."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import mumask

DOCS = Path(__file__).parents[2] / "docs"
if not DOCS.is_dir():
    pytest.skip("not run from a checkout: docs/ is not there", allow_module_level=True)

ENTRY = re.compile(r"^    ([A-Za-z0-9_.]+)$", re.MULTILINE)


def listed(page: str) -> set[str]:
    """Names in the autosummaries (and data) of a page, below ``mumask``."""
    text = (DOCS / page).read_text()
    names = set(ENTRY.findall(text))
    for part in re.split(r"py:currentmodule:: mumask\.", text)[1:]:
        room = re.match(r"\w+", part)[0]
        names |= {f"{room}.{name}" for name in re.findall(r"py:data:: (\w+)", part)}
    return names


@pytest.mark.parametrize("room", ["datasets", "metrics", "pl", "pp", "tl"])
def test_users_names_are_listed(room):
    names = {f"{room}.{name}" for name in getattr(mumask, room).__all__}
    assert {name for name in listed("api.md") if name.startswith(f"{room}.")} == names


@pytest.mark.parametrize("room", ["data", "module", "nn", "train"])
def test_developers_names_are_listed(room):
    names = {f"{room}.{name}" for name in getattr(mumask, room).__all__} - {"data.keys"}
    assert {name for name in listed("api_developers.md") if name.startswith(f"{room}.")} == names


def test_models_are_listed():
    models = {name for name in listed("api.md") if "." not in name}
    assert models == {name for name in mumask.__all__ if name[0].isupper()}


def test_drawings_are_drawn_by_their_code(monkeypatch):
    folder = DOCS / "_drawings"
    monkeypatch.syspath_prepend(str(folder))
    try:
        drawings = runpy.run_path(str(folder))["DRAWINGS"]
    finally:
        for name in ("cases", "masks", "models", "shapes"):
            sys.modules.pop(name, None)
    for name, draw in drawings.items():
        kept = (DOCS / "_static" / f"{name}.svg").read_text()
        assert draw() == kept, f"{name}.svg is old: python docs/_drawings"
    used = "".join(page.read_text() for page in (DOCS / "guides").glob("*.md"))
    assert [name for name in drawings if f"_static/{name}.svg" not in used] == []


def test_registry_entry_fits_the_package():
    """What the registry's schema and its reviewers ask for; `contact` needs a person."""
    entry = yaml.safe_load((DOCS / "meta.yaml").read_text())
    needed = "name description project_home documentation_home install license tags version"
    needed = set(needed.split()) | {"category", "contact"}
    assert needed <= set(entry)
    further = "tutorials_home publications logo test_command primary_category language"
    assert set(entry) <= needed | set(further.split())
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    assert entry["version"] == mumask.__version__ == project["version"]
    assert entry["license"] == project["license"] == "BSD-3-Clause"
    assert "Redistribution and use" in (DOCS.parent / "LICENSE").read_text()
    assert entry["category"] == "ecosystem"  # the only one that is open to all
    assert entry["install"] == {"pypi": project["name"]}
    assert len(set(entry["tags"])) == len(entry["tags"]) > 0
    assert entry["description"].count(". ") <= 1  # one or two sentences
    for doi in entry["publications"]:
        assert re.fullmatch(r"10\.\d{4,9}/[-._;()/:A-Za-z0-9]+", doi)
    assert re.fullmatch(r"logo\.(svg|png|webp)", entry["logo"])
    assert (DOCS / "_static" / entry["logo"]).is_file()


def test_citation_fits_the_package():
    citation = yaml.safe_load((DOCS.parent / "CITATION.cff").read_text())
    assert citation["version"] == mumask.__version__
    assert {reference["doi"] for reference in citation["references"]} <= set(
        re.findall(r"doi\s*=\s*{([^}]*)}", (DOCS / "references.bib").read_text())
    )
