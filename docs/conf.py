"""The documentation site: `make docs` builds it, without a network, into site/."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generated_pages  # noqa: E402
from docstrings import restructured  # noqa: E402

from iclab import __version__  # noqa: E402

project, author, copyright, release = "iclab", "The iclab authors", "The iclab authors", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"iclab {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = html_copy_source = False

myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"


def setup(app):
    """Connects what is made of the package itself: pages, and docstrings as reStructuredText."""
    app.connect("builder-inited", lambda app: generated_pages.write(Path(app.srcdir)))
    app.connect("autodoc-process-docstring", _docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _docstring(app, what, name, obj, options, lines):
    lines[:] = restructured(lines)
