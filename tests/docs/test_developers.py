"""The examples of the page for developers run, and they use every name that it lists."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mumask

PAGE = Path(__file__).parents[2] / "docs" / "api_developers.md"
if not PAGE.is_file():
    pytest.skip("not run from a checkout: docs/ is not there", allow_module_level=True)

TEXT = PAGE.read_text()
EXAMPLES = "\n".join(re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))


def test_examples_run():
    mdata = mumask.datasets.simulate_mosaic(
        60, n_features={"rna": 100, "protein": 12, "atac": 150}, n_cell_types=3
    )
    mumask.MaskedVAE.setup_mudata(mdata, batch_key="batch", labels_key="cell_type")
    names = {"mdata": mdata, "model": mumask.MaskedVAE(mdata)}
    names |= {"mumask": mumask, "np": np, "pd": pd, "torch": torch}
    names["rng"] = np.random.default_rng(0)
    test = doctest.DocTestParser().get_doctest(EXAMPLES, names, PAGE.name, str(PAGE), 0)
    log = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=log.append)
    assert runner.failures == 0, "".join(log)


@pytest.mark.parametrize("room", ["data", "module", "nn", "train"])
def test_every_name_is_used(room):
    names = {name for name in getattr(mumask, room).__all__ if name != "keys"}
    constants = {name for name in names if name.isupper()}  # described in words
    used = set(re.findall(r"\w+", EXAMPLES))
    assert names - constants - used == set()
