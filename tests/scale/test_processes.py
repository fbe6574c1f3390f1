"""Two processes (Lightning's DDP, gloo) learn what one learns."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("train_in_processes.py")


def alone(folder):
    """What one process wrote: this one, as it has imported everything."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(1, folder)
    return json.loads((folder / "1_0.json").read_text())


def together(n_processes, folder):
    """What every process wrote."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), str(n_processes), str(folder)]
    done = subprocess.run(
        command, cwd=folder, env=env, timeout=240, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = [folder / f"{n_processes}_{rank}.json" for rank in range(n_processes)]
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    """Batches of 8 cells: many lack a modality, so that its weights have no gradient there."""
    single = alone(tmp_path)
    first, second = together(2, tmp_path)
    assert first["steps"] == single["steps"]
    assert first["weights"] == second["weights"]
    assert first["scale"] == second["scale"] == single["scale"]
    assert set(first["loss"]) == set(single["loss"])
    for name in ("elbo_train", "elbo_validation", "train_loss", "reconstruction_loss_train"):
        one, two = np.array(single["loss"][name]), np.array(first["loss"][name])
        assert one[-1] < 0.9 * one[0]
        np.testing.assert_allclose(two[-1], one[-1], rtol=0.05, err_msg=name)
    for name, error in single["error"].items():
        assert first["error"][name] == pytest.approx(error, rel=0.05)
