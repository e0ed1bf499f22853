"""What holds of the package's files as a whole."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "pyro_semivae").rglob("*.py"))
# What torch and Pyro have subclasses call, by their own documentation of how to write one.
PROTOCOLS = {
    "_get_checked_instance",
    "_validate_args",
    "_validate_sample",
    "_pyro_get_fullname",
    "_pyro_sample",
    "_get_help_string",
    "_replace",
}
# What torch's documentation names, with its underscore: the foreach functions, and cuBLAS workspaces of CUDA graphs.
DOCUMENTED = {"_foreach_mul", "_foreach_copy_", "_foreach_lerp_", "_C", "_cuda_clearCublasWorkspaces"}
# What a module has: the public walks over it take as long as a small step on a GPU (`Owners`).
OF_MODULES = {"_modules", "_parameters", "_buffers"}
# Hooks, which torch has functions to add, and none to ask for.
HOOKS = {"_post_accumulate_grad_hooks", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"}
ALLOWED = {"captured.py": DOCUMENTED, "traced.py": DOCUMENTED, "checkpoints.py": DOCUMENTED}
ALLOWED |= {"owners.py": OF_MODULES, "updates.py": HOOKS}


def private_names(tree):
    """The names with an underscore that a file takes from elsewhere: as attributes it never sets, or by an import."""
    nodes = [*ast.walk(tree)]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)} - own
    used |= {name.name for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
    return {name for name in used if re.match("_[a-zA-Z]", name)}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("poutine.runtime._PYRO_STACK", {"_PYRO_STACK"}),
        ("from pyro.nn.module import _MODULE", {"_MODULE"}),
        ("self._mine = 1\nself._mine", set()),
        ("x.__class__, type(x)._y()", {"_y"}),
    ],
)
def test_private_names_are_found(code, found):
    assert private_names(ast.parse(code)) == found


def test_no_private_name_of_another_package_is_used():
    found = {
        path.name: private_names(ast.parse(path.read_text())) - PROTOCOLS - ALLOWED.get(path.name, set())
        for path in FILES
    }
    assert not {name: names for name, names in found.items() if names}


def test_what_is_imported_is_declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    for extra in ("hdf5", "graphviz"):  # each for one function, which says so
        lines += config["options.extras_require"][extra].split("\n")
    declared = {re.match("[a-z0-9-]+", line).group() for line in lines if line}
    imported = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    others = imported - {*sys.stdlib_module_names, "pyro_semivae"}
    by_module = packages_distributions()
    missing = {name: by_module.get(name) for name in others if not declared & {*map(str.lower, by_module[name])}}
    assert not missing
