"""The house rules of docs/architecture.md: who may import whom, and who may see a MuData."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mumask

SOURCE = Path(mumask.__file__).parent
FOLDERS = sorted(p.name for p in SOURCE.iterdir() if (p / "__init__.py").is_file())
FILES = sorted(p.relative_to(SOURCE) for p in SOURCE.rglob("*.py"))

# Folder -> folders of mumask that it may import. "data.keys" is that module alone.
MAY_IMPORT = {
    "data": set(),
    "nn": set(),
    "module": {"data.keys", "nn"},
    "train": {"data.keys", "nn"},
    "model": {"data", "nn", "module", "train"},
    "datasets": {"data"},
    "metrics": {"data"},
    "pp": {"data"},
    "tl": {"data"},
    "pl": {"data", "pp", "metrics"},
    "cli": {"", "data", "datasets", "metrics", "model", "pl", "pp"},
}
# Where a MuData may be told from something else; everywhere else it is known what comes in.
MAY_ASK_FOR_MUDATA = {"data", "pp", "model/_setup.py", "model/_io.py"}
MAX_LINES = 400


def imports_of(path: Path) -> set[str]:
    """Dotted names inside mumask that a file imports, `mumask` itself left out."""
    found = set()
    for node in ast.walk(ast.parse((SOURCE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "mumask"}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                here = ("mumask", *path.parts[:-1])
                base = ".".join(here[: len(here) - node.level + 1])
                module = f"{base}.{node.module}" if node.module else base
            else:
                module = node.module
            if module.split(".")[0] == "mumask":
                found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("mumask").removeprefix(".") for name in found}


def violations(path: Path) -> list[str]:
    folder = path.parts[0]
    allowed = MAY_IMPORT[folder]
    bad = []
    for name in imports_of(path):
        first = name.split(".")[0]
        if first == folder or first in allowed:
            continue
        if first not in FOLDERS and "" in allowed:  # a name of the top level, such as MaskedVAE
            continue
        if first == "data" and "data.keys" in allowed and name in ("data.keys", "data._keys"):
            continue
        bad.append(name)
    return bad


def test_every_folder_has_a_rule():
    assert set(FOLDERS) == set(MAY_IMPORT)


@pytest.mark.parametrize("path", [p for p in FILES if len(p.parts) > 1], ids=str)
def test_imports(path):
    assert violations(path) == []


def test_rules_would_be_noticed():
    """The check sees relative and absolute imports, names and modules."""
    assert "data.keys" in imports_of(Path("module/_masked_vae.py"))
    assert "nn.LIKELIHOODS" in imports_of(Path("module/_masked_vae.py"))
    assert "model._predictive.PredictiveMixin" in imports_of(Path("model/_masked_vae.py"))


def asks_for_mudata(path: Path) -> bool:
    for node in ast.walk(ast.parse((SOURCE / path).read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            if any(isinstance(n, ast.Name) and n.id == "MuData" for n in ast.walk(node.args[1])):
                return True
            if any(isinstance(n, ast.Attribute) and n.attr == "MuData" for n in ast.walk(node)):
                return True
    return False


def test_nobody_else_asks_what_a_mudata_is():
    asking = {str(path) for path in FILES if asks_for_mudata(path)}
    assert asking
    outside = {p for p in asking if p not in MAY_ASK_FOR_MUDATA}
    assert {p for p in outside if p.split("/")[0] not in MAY_ASK_FOR_MUDATA} == set()


@pytest.mark.parametrize("room", ["nn", "module", "train"])
def test_tensor_rooms_know_no_annotated_data(room):
    for path in FILES:
        if path.parts[0] == room:
            text = (SOURCE / path).read_text()
            for package in ("anndata", "mudata", "scanpy", "muon"):
                assert f"import {package}" not in text, path
                assert f"from {package}" not in text, path


def test_metrics_are_pure_arrays_and_models_are_not_drawn():
    for path in FILES:
        if path.parts[0] in ("data", "nn", "module", "model", "train", "metrics"):
            assert "matplotlib" not in (SOURCE / path).read_text(), path


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_stay_small(path):
    assert len((SOURCE / path).read_text().splitlines()) <= MAX_LINES


def architecture() -> str:
    page = SOURCE.parents[1] / "docs" / "architecture.md"
    if not page.is_file():
        pytest.skip("not run from a checkout: docs/ is not there")
    return page.read_text()


def test_the_page_names_every_folder_and_only_those():
    text = architecture()
    for folder in FOLDERS:
        assert f"`{folder}/`" in text, folder
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    named = {row[1].strip().strip("`/") for row in rows}
    assert named == set(FOLDERS)


def test_the_page_says_who_may_import_whom():
    """The table of the page is the table of this test."""
    for line in architecture().splitlines():
        if line.startswith("| `"):
            _, folder, _, imports, _ = (part.strip() for part in line.split("|"))
            folder = folder.strip("`/")
            named = {name.strip().strip("`/") for name in imports.split(",")}
            named = {"" if name == "the top level" else name for name in named} - {"nothing"}
            assert named == MAY_IMPORT[folder], folder


def test_the_page_has_one_drawing():
    assert architecture().count("```mermaid") == 1
