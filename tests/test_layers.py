"""The law of the house: imports point leftwards, light modules stay light, and some things are never written.

base < data < training < advice < results < cloud < api < cli
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import eighteen

assert eighteen.__file__
ROOT = Path(eighteen.__file__).parent  # not __path__: an editable install begins it with the folder of the library
LAYERS = ("base", "data", "training", "advice", "results", "cloud", "api", "cli")
ALSO = {"recipes": "base", "demo": "cli", "__main__": "cli"}  # what else stands at the top, and the layer that it is in
BASE_IMPORTS = {"eighteen", "numpy", "pydantic", "pydantic_core", "tomli_w", *sys.stdlib_module_names}
LIGHT = {  # modules that do not import torch at load, those of them that exist
    "": ("__main__", "cli*", "base*", "recipes*", "cloud*", "demo*"),
    "data.": ("sources", "pack", "shards", "index", "dataset"),
    "advice.": ("doctor", "plan", "parts", "feeding"),
    "results.": ("terminal", "tensorboard", "report", "live"),
}
SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc"}  # names of files
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_bytes(), filename=str(path)) for name, path in FILES.items()}
every_module = pytest.mark.parametrize("module", FILES)


def layer(module: str) -> str:
    """The layer of a module; the package itself, which holds the public names, stands as high as api."""
    top = [*module.split("."), "api"][1]
    return ALSO.get(top, top)


def points_right(module: str, imported: str) -> bool:
    return LAYERS.index(layer(imported)) > LAYERS.index(layer(module))


def imports(module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of what a module imports, at load or later; relative imports begin with a dot."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            names = {f"{origin}.{alias.name}" for alias in node.names}
            yield from ((node.lineno, name) for name in sorted(names & FILES.keys()) or [origin])


def never(node: ast.AST) -> str | None:
    """What to do instead of this piece of code, or None where it may stay."""
    match node:
        case ast.alias(name) | ast.ImportFrom(name) if name in PICKLES:
            return "no pickles: keep weights in safetensors and facts in JSON"
        case ast.Call(ast.Attribute(ast.Name("torch"), "load")) if not says(node, "weights_only", True):
            return "torch.load runs code: use safetensors, or weights_only=True"
        case ast.Call(ast.Attribute(ast.Name("yaml"), "load" | "unsafe_load")):
            return "yaml.load runs code: use yaml.safe_load"
        case ast.Call() if says(node, "allow_pickle", True):
            return "allow_pickle=True runs code: save plain arrays"
        case ast.Call() if says(node, "shell", True):
            return "shell=True breaks on names with spaces and quotes: pass a list of arguments"
    return None


def loads_unchecked(node: ast.AST) -> bool:
    """np.load allocates what a header claims, and reads pickles where nobody says that it must not."""
    match node:
        case ast.Call(ast.Attribute(ast.Name("np" | "numpy"), "load" | "fromfile" | "loadtxt" | "genfromtxt")):
            return True
    return False


def says(call: ast.Call, keyword: str, value: object) -> bool:
    return any(k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


def refuse(faults: list[tuple[str, int, str]]) -> None:
    """Fail with one line a fault, as ``file:line: what to do``, where there are any."""
    if lines := [f"{FILES[module]}:{line}: {fault}" for module, line, fault in faults]:
        pytest.fail("\n".join(["", *lines]), pytrace=False)


@every_module
def test_every_module_stands_in_a_layer_and_has_a_name_that_says_something(module: str) -> None:
    if layer(module) not in LAYERS:
        refuse([(module, 1, f"move it into one of {', '.join(LAYERS)}")])
    if SAY_NOTHING & {*module.split(".")}:
        refuse([(module, 1, "name it for what it does")])


@every_module
def test_every_module_says_what_it_is(module: str) -> None:
    if not ast.get_docstring(TREES[module]):
        refuse([(module, 1, "add a docstring: what it is, what goes in, what comes out")])


@every_module
def test_imports_are_absolute_and_point_leftwards(module: str) -> None:
    faults = []
    for line, name in imports(module):
        if name.startswith("."):
            faults.append((module, line, f"import it absolutely, as eighteen.*, not {name!r}"))
        elif name.split(".")[0] == "eighteen" and points_right(module, name):
            faults.append((module, line, f"{layer(module)} must not import {name}: {layer(name)} lies to its right"))
    refuse(faults)


def test_base_imports_little() -> None:
    base = [(module, *found) for module in FILES if layer(module) == "base" for found in imports(module)]
    wrong = [found for found in base if found[2].split(".")[0] not in BASE_IMPORTS]
    refuse([(module, line, f"base must not import {name}") for module, line, name in wrong])


def test_cloud_ships_a_recipe_and_a_command_line_and_imports_no_training() -> None:
    cloud = [(module, *found) for module in FILES if layer(module) == "cloud" for found in imports(module)]
    wrong = [found for found in cloud if found[2].startswith("eighteen.training")]
    refuse([(module, line, f"cloud must not import {name}") for module, line, name in wrong])


@every_module
def test_nothing_runs_code_from_data(module: str) -> None:
    refuse([(module, getattr(node, "lineno", 1), fault) for node in ast.walk(TREES[module]) if (fault := never(node))])


@every_module
def test_arrays_are_read_by_npy_and_pickles_by_import_pth_alone(module: str) -> None:
    faults = []
    for node in ast.walk(TREES[module]):
        if loads_unchecked(node):
            faults.append((module, getattr(node, "lineno", 1), "np.load trusts headers: use data.npy"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.jit.load", "load_file"):
            home = (
                "eighteen.training.models" if ast.unparse(node.func) == "load_file" else "eighteen.training.import_pth"
            )
            if module != home:
                faults.append((module, node.lineno, f"weights are loaded by {home}"))
    refuse(faults)


IMPORT_WITHOUT_TORCH = """
import importlib, sys, traceback

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            frame = [frame for frame in traceback.extract_stack() if frame.filename.startswith(root)][-1]
            blamed.append(f"{frame.filename}:{frame.lineno}: loads torch for {module}: import it inside the function")
            raise ImportError("torch")

root, *modules = sys.argv[1:]
sys.meta_path.insert(0, Watch())
for module in modules:
    blamed = []
    try:
        importlib.import_module(module)
    except ImportError:
        if not blamed:
            raise
    print(*blamed, sep="\\n", end="\\n" if blamed else "")
"""


def test_light_modules_load_without_torch() -> None:
    patterns = ["eighteen", *(f"eighteen.{room}{name}" for room, names in LIGHT.items() for name in names)]
    light = [module for module in FILES if any(fnmatch(module, pattern) for pattern in patterns)]
    command = [sys.executable, "-c", IMPORT_WITHOUT_TORCH, str(ROOT), *light]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if done.stdout:
        pytest.fail("\n" + done.stdout, pytrace=False)
