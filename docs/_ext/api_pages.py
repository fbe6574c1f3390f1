"""How docstrings become API pages."""

import inspect
import re

from sphinx.application import Sphinx

# Classes that are documented under another name than that of the file they are defined in.
PUBLIC = {
    "anndata._core.anndata.AnnData": "anndata.AnnData",
    "matplotlib.axes._axes.Axes": "matplotlib.axes.Axes",
    "mudata._core.mudata.MuData": "mudata.MuData",
    "pandas.core.frame.DataFrame": "pandas.DataFrame",
    "pandas.core.indexes.base.Index": "pandas.Index",
    "pandas.core.series.Series": "pandas.Series",
    "torch._tensor.Tensor": "torch.Tensor",
}
UNDERLINE = re.compile(r"-{3,}$")


def plain_returns(app, what, name, obj, options, lines) -> None:
    """Take "Returns" as text, as it is meant; numpydoc would read its first line as a type.

    A section with types (a line, then an indented block) is left to napoleon.
    """
    if what in ("attribute", "property"):
        # napoleon would take what stands before a colon for a type
        lines[:1] = [line.replace(": ", " - ", 1) for line in lines[:1]]
        return
    start = next((i for i, line in enumerate(lines[:-1]) if line == "Returns"), None)
    if start is None or not UNDERLINE.match(lines[start + 1]):
        return
    stop = next(
        (i - 1 for i in range(start + 3, len(lines)) if UNDERLINE.match(lines[i])), len(lines)
    )
    body = lines[start + 2 : stop]
    if len(body) > 1 and body[1].startswith(" "):
        return
    text = [f"    {line}" if line else "" for line in body]
    # two empty lines end the section before it, else this would be one more parameter
    lines[start:stop] = ["", "", f":returns: {text[0].strip()}", *text[1:], "", ""]


def only_ours(app, what, name, obj, skip, options):
    """Leave out members that our classes inherit from other packages."""
    function = (
        obj.fget if isinstance(obj, property) else inspect.unwrap(getattr(obj, "__func__", obj))
    )
    module = getattr(function, "__module__", None) or ""
    if not (callable(function) and module.startswith("mumask")):
        return True
    return None  # False would show private members, too


def public_name(annotation, config):
    """Link a class by its public name."""
    name = f"{getattr(annotation, '__module__', '')}.{getattr(annotation, '__qualname__', '')}"
    return f":py:class:`~{PUBLIC[name]}`" if name in PUBLIC else None


def setup(app: Sphinx) -> dict:
    """Connect; napoleon reads docstrings at priority 500."""
    app.connect("autodoc-process-docstring", plain_returns, priority=400)
    app.connect("autodoc-skip-member", only_ours)
    app.config.typehints_formatter = public_name
    return {"parallel_read_safe": True}
