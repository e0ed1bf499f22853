"""The documentation as a site: `sphinx-build -W -b html docs docs/_build`."""

import re
import shutil
from pathlib import Path

from sphinx.util import inspect
from sphinx.util.inspect import stringify_signature

from pyro_semivae import SemiVAE, __version__

HERE = Path(__file__).parent

project, author, release = "pyro_semivae", "The pyro_semivae developers", __version__
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "pyro_semivae"
default_role = "code"  # of what docstrings have between single backticks
nb_execution_mode = "off"  # the lessons are stored as they were executed
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
napoleon_numpy_docstring = False

# The lessons are read where they are run.
shutil.copytree(HERE.parent / "examples" / "notebooks", HERE / "lessons", dirs_exist_ok=True)


def escape_bars(app, what, name, obj, options, lines):
    """`|x|` in a sentence is the size of x and no substitution; blocks of code and of formulas stay as they are."""
    block = None  # the indent of the line that begins one
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and line.strip() and indent <= block:
            block = None
        if block is None and "::" in line:
            block = indent
        elif block is None and "  " not in line.strip():  # no table
            parts = line.split("`")
            parts[::2] = [re.sub(r"(?<![\w)\]])\|(?=\S)", r"\\|", part) for part in parts[::2]]
            lines[i] = "`".join(parts)


def how_it_is_built(app, what, name, obj, options, signature, returned):
    """The arguments of a model's `__init__`, where Sphinx would show those of `__new__`."""
    if what == "class" and issubclass(obj, SemiVAE):
        return stringify_signature(inspect.signature(obj.__init__, bound_method=True)), returned


def setup(app):
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-process-signature", how_it_is_built)
