"""The parts that a module is put together from."""

from __future__ import annotations

import pytest

from mumask.module import CrossAttentionMAEModule, MaskedVAEModule


@pytest.mark.parametrize("module", [MaskedVAEModule, CrossAttentionMAEModule])
def test_no_part_hides_what_another_one_defines(module):
    defined = {}
    for part in module.__mro__:
        if part.__module__.startswith("mumask"):
            for name in vars(part):
                if not name.startswith(("__", "_abc")):
                    defined.setdefault(name, []).append(part.__name__)
    assert {name: parts for name, parts in defined.items() if len(parts) > 1} == {}
