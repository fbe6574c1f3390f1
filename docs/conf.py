"""Sphinx configuration."""

import sys
import warnings
from importlib.metadata import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

from inventories import inventories  # noqa: E402

# an old call in sphinx_autodoc_typehints, said once for every class
warnings.filterwarnings("ignore", message="'sphinx_autodoc_typehints")

_info = metadata("mumask")
project = "mumask"
author = "The mumask developers"
copyright = f"2026, {author}"
version = release = _info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "sphinxcontrib.mermaid",
    # docs/_ext
    "api_pages",
    "site_pages",
]
exclude_patterns = ["_build", "_drawings", "_ext", "_templates", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

autosummary_generate = True
autosummary_imported_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # sphinx_autodoc_typehints puts them beside the parameters
napoleon_google_docstring = False
napoleon_use_rtype = True
napoleon_use_param = True
always_use_bars_union = True
typehints_defaults = "comma"
typehints_document_rtype = False  # "Returns" says it in words
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # typehints_formatter is a function
nb_execution_mode = "off"  # tutorials are committed with their outputs and run by the tests
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

nitpicky = True  # a name that leads nowhere is a warning, and scripts/docs makes warnings errors
# Names of other packages are linked where their list of names can be had; where it cannot (no
# network, or that site is down) they stay plain text, and the build neither fails nor warns.
intersphinx_mapping, nitpick_ignore_regex = inventories(
    {
        "anndata": "https://anndata.readthedocs.io/en/stable/",
        "lightning": "https://lightning.ai/docs/pytorch/stable/",
        "matplotlib": "https://matplotlib.org/stable/",
        "mudata": "https://mudata.readthedocs.io/en/latest/",
        "muon": "https://muon.readthedocs.io/en/latest/",
        "numpy": "https://numpy.org/doc/stable/",
        "pandas": "https://pandas.pydata.org/docs/",
        "python": "https://docs.python.org/3/",
        "scanpy": "https://scanpy.readthedocs.io/en/stable/",
        "scipy": "https://docs.scipy.org/doc/scipy/",
        "scvi": "https://docs.scvi-tools.org/en/stable/",
        "torch": "https://docs.pytorch.org/docs/stable/",
    },
    cache=HERE / "_build" / "inventories",
)

html_theme = "sphinx_book_theme"
html_title = "mumask"
html_logo = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "repository_url": "https://github.com/mumask/mumask",
    "path_to_docs": "docs",
    "use_repository_button": True,
    "use_issues_button": True,
    "show_navbar_depth": 1,
}
