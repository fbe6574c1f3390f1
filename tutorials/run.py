"""Run the tutorials and keep their outputs:  python tutorials/run.py [part of a name ...]

Needs nbclient and ipykernel, which the extra "test" installs. Real data are used where
MUMASK_DATA names a folder with them. What is written to stderr (progress bars, remarks of other
packages) is shown here and not kept in the notebook.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
MAX_SECONDS = 3600  # of one cell; a whole tutorial takes up to three minutes on two quiet cores
MAX_BYTES = 1_500_000


def execute(path: Path, forget: bool = False, **options) -> nbformat.NotebookNode:
    """Run one notebook from top to bottom; an error in it is raised.

    It gets a kernel of its own, or the one of ``km=...``, which with `forget` starts afresh.
    """
    notebook = nbformat.read(path, as_version=4)
    if forget:
        notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client = NotebookClient(
        notebook, timeout=MAX_SECONDS, kernel_name="python3", record_timing=False, **options
    )
    client.execute(cwd=str(path.parent))
    return notebook


def clean(notebook: nbformat.NotebookNode) -> list[str]:
    """Drop what is of no use to a reader; returns what was said on stderr."""

    def useful(output) -> bool:
        if output.output_type == "stream":
            bar = "\r" in output.text  # a progress bar
            return output.name != "stderr" and not bar and bool(output.text.strip())
        return "application/vnd.jupyter.widget-view+json" not in output.get("data", {})

    said = []
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            said += [o.text for o in cell.outputs if o.get("name") == "stderr"]
            cell.outputs = joined([output for output in cell.outputs if useful(output)])
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return said


def joined(outputs: list) -> list:
    """What was printed line by line, as one text without the spaces that fill up its lines."""
    found = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = re.sub(r"[ ]+$", "", output.text, flags=re.MULTILINE)
            if found and found[-1].output_type == "stream":
                found[-1].text += output.text
                continue
        found.append(output)
    return found


def main(parts: list[str]) -> None:
    """Run the notebooks whose names contain one of `parts`, or all."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if parts and not any(part in path.name for part in parts):
            continue
        start = time.perf_counter()
        notebook = execute(path)
        for text in clean(notebook):
            print(text.rstrip(), file=sys.stderr)
        nbformat.write(notebook, path)
        size = path.stat().st_size
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size / 1e6:.2f} MB", flush=True)
        if size > MAX_BYTES:
            raise SystemExit(
                f"{path.name} is larger than {MAX_BYTES:,} bytes: draw less, or smaller."
            )


if __name__ == "__main__":
    main(sys.argv[1:])
