"""The code in the guides runs, block after block, with trainings cut short."""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import mudata
import numpy as np
import pytest
import scvi
from matplotlib import pyplot as plt

import mumask

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A search with Ray, which the tests do without, has a test of its own: tests/scale/test_autotune.py.
RAY = "from ray import"
BLOCKS = {
    page.name: [block for block in BLOCK.findall(page.read_text()) if RAY not in block]
    for page in sorted(GUIDES.glob("*.md"))
}
PAGES = {page: blocks for page, blocks in BLOCKS.items() if blocks}


@pytest.fixture
def short_trainings(monkeypatch):
    """Two epochs, and few steps of the cell-type head, unless the guide says otherwise."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.seed = 0
    short = {
        "train": {"max_epochs": 2, "enable_progress_bar": False},
        "finetune": {"head_steps": 20},
    }
    for model in (mumask.MaskedVAE, mumask.CrossAttentionMAE):
        for name, options in short.items():
            if hasattr(model, name):
                whole = getattr(model, name)
                monkeypatch.setattr(model, name, functools.partialmethod(_call, whole, options))


def _call(self, whole, options, *args, **kwargs):
    return whole(self, *args, **{**options, **kwargs})


@pytest.mark.parametrize("page", PAGES)
def test_code_of_the_guide_runs(page, short_trainings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scvi.settings, "logging_dir", str(tmp_path / "scvi_log"))
    design = {"n_features": {"rna": 80, "protein": 10, "atac": 120}, "n_cell_types": 3}
    mdata = mumask.datasets.simulate_mosaic(40, **design)
    query = mumask.datasets.simulate_mosaic(30, {"CITE-seq": ("rna",)}, seed=1, **design)
    names = {"np": np, "mudata": mudata, "mumask": mumask, "mdata": mdata, "query": query}
    for block in PAGES[page]:
        exec(compile(block, page, "exec"), names)
    plt.close("all")


def test_hidden_labels_may_be_of_types_that_were_not_shown(short_trainings):
    """Columns of categories that differ are not compared by pandas."""
    mdata = mumask.datasets.simulate_mosaic(40, n_features={"rna": 80, "protein": 10, "atac": 120})
    types = mdata.obs["cell_type"].cat.add_categories("rare")
    shown = np.random.default_rng(0).random(mdata.n_obs) >= 0.7  # as in the guide
    types[mdata.obs_names[~shown][:2]] = "rare"
    mdata.obs["cell_type"] = types
    (block,) = (block for block in PAGES["evaluation.md"] if "shown" in block)
    names = {"np": np, "mumask": mumask, "mdata": mdata}
    exec(compile(block, "evaluation.md", "exec"), names)
    assert 0 <= names["accuracy"] <= 1
