"""Draw the pictures of the guides anew: ``python docs/_drawings``; they are kept in docs/_static."""

from pathlib import Path

import cases
import masks
import models

STATIC = Path(__file__).parents[1] / "_static"
DRAWINGS = {**cases.DRAWINGS, **masks.DRAWINGS, **models.DRAWINGS}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (STATIC / f"{name}.svg").write_text(draw())
