"""The tutorials run from top to bottom, on simulated data and with little training."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat
from jupyter_client.manager import KernelManager

TUTORIALS = Path(__file__).parents[2] / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))


def load_runner():
    """``tutorials/run.py``, which is no part of the package."""
    if not (TUTORIALS / "run.py").is_file():
        pytest.skip("not run from a checkout: tutorials/ is not there", allow_module_level=True)
    spec = importlib.util.spec_from_file_location("run_tutorials", TUTORIALS / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = load_runner()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all, because imports and compilation take longer than the training."""
    environment = {name: value for name, value in os.environ.items() if name != "MUMASK_DATA"}
    environment |= {
        "MUMASK_TUTORIAL_FAST": "1",
        "MUMASK_CACHE": str(tmp_path_factory.mktemp("cache")),
        "HTTPS_PROXY": "http://127.0.0.1:9",  # nothing is downloaded
        "OMP_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
    }
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=environment, cwd=str(tmp_path_factory.mktemp("work")))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tutorial_runs(path, kernel):
    notebook = runner.execute(path, km=kernel, forget=True)
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs(path):
    """A reader sees results, not errors, noise or the machine they come from."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].source.startswith(f"# {path.name[0]}. ")
    assert any("image/png" in o.get("data", {}) for cell in code for o in cell.outputs)
    assert path.stat().st_size <= runner.MAX_BYTES
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            shown = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            for noise in ("Warning", "/home/", "/root/", "/tmp/", "site-packages"):
                assert noise not in shown, shown


def test_the_table_lists_them_all():
    readme = (TUTORIALS / "README.md").read_text()
    assert [path.name for path in NOTEBOOKS if path.name not in readme] == []
    assert len(NOTEBOOKS) == 7
