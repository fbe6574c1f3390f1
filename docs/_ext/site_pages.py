"""Pages that may or may not be there: tutorials, and what others add to the site."""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

# Entries of index.md that are dropped where no such page exists.
OPTIONAL = ("applications/*", "benchmarks")
TUTORIALS = """# Tutorials

Executed notebooks. Each starts from what people have, runs in minutes on two cores, and can be downloaded from the top of its page.

```{toctree}
:maxdepth: 1

%s
```
"""
NO_TUTORIALS = """# Tutorials

No tutorial is part of this build. `mumask demo` runs the main job on simulated data, and [](../guides/which_model.md) says where to begin.
"""


def copy_tutorials(app: Sphinx) -> None:
    """Notebooks lie beside docs/, where people look for them; Sphinx reads its own folder only."""
    source, target = Path(app.srcdir).parent / "tutorials", Path(app.srcdir) / "tutorials"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    notebooks = sorted(source.glob("*.ipynb"))
    for notebook in notebooks:
        shutil.copy2(notebook, target)
    names = "\n".join(notebook.stem for notebook in notebooks)
    (target / "index.md").write_text(TUTORIALS % names if names else NO_TUTORIALS)


def drop_missing(app: Sphinx, docname: str, source: list[str]) -> None:
    """Leave out entries of the table of contents, and links, that have no page."""
    here = Path(app.srcdir)
    for entry in OPTIONAL:
        if not any(here.glob(f"{entry}.md")):
            if docname == "index":
                source[0] = source[0].replace(f"\n{entry}\n", "\n")
            link = re.compile(rf"\[([^\]]*)\]\((\.\./)?{re.escape(entry)}\.md\)")
            source[0] = link.sub(r"\1", source[0])


def setup(app: Sphinx) -> dict:
    """Connect; the notebooks have to be there before Sphinx looks for pages."""
    app.connect("builder-inited", copy_tutorials)
    app.connect("source-read", drop_missing)
    return {"parallel_read_safe": True}
