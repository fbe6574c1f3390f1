"""Environments of peers that do not live with ours: pinned, made once, kept outside of the repository."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from platformdirs import user_cache_path

HERE = Path(__file__).parent


def folder() -> Path:
    """``MUMASK_BENCH_ENVS``, or the user's cache."""
    given = os.environ.get("MUMASK_BENCH_ENVS")
    return Path(given) if given else user_cache_path("mumask") / "benchmarks"


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.txt"))


def python_of(name: str | None) -> Path:
    """Interpreter of an environment, which is made if it is not there or its pins have changed.

    Raises
    ------
    FileNotFoundError
        If no pins of that name exist.
    subprocess.CalledProcessError
        If the packages cannot be installed.
    """
    if name is None:
        return Path(sys.executable)
    pins, bare = HERE / f"{name}.txt", HERE / "no_deps" / f"{name}.txt"
    state = hashlib.sha256(pins.read_bytes()).hexdigest()
    place = folder() / name
    python, stamp = place / "bin" / "python", place / "pins.sha256"
    if not (stamp.is_file() and stamp.read_text() == state):
        venv.create(place, clear=True, with_pip=True)
        install = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, "-r", pins], check=True)
        if bare.is_file():  # packages that ask for versions that no longer install
            subprocess.run([*install, "--no-deps", "-r", bare], check=True)
        stamp.write_text(state)
    return python
