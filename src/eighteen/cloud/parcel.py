"""What a launch sends: this very program, with a digest of it, and what it needs beside it."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from eighteen.base.errors import MachineError

NAMES = {"pillow": "PIL", "google-crc32c": "google_crc32c", "tomli-w": "tomli_w"}  # modules that are called otherwise


def files() -> dict[str, Path]:
    """Of the program: sources, tables and the native decoder, which an editable install keeps elsewhere."""
    root = Path(__file__).parents[1]
    found = {str(path.relative_to(root.parent)): path for path in root.rglob("*") if path.is_file()}
    installed = {}
    with suppress(metadata.PackageNotFoundError):  # on a machine that was sent it
        files = metadata.files("eighteen") or ()
        installed = {str(one): Path(str(one.locate())) for one in files if one.suffix == ".so"}
    return {name: path for name, path in sorted((found | installed).items()) if "__pycache__" not in name}


def digest() -> str:
    """Of the program, names and bytes."""
    found = hashlib.sha256()
    for name, path in files().items():
        found.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def requirements() -> list[str]:
    """Packages in the versions that are installed here, whatever they were built for: a machine gets what suits it."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in _packages()]


def modules() -> list[str]:
    """The modules of these packages."""
    return [NAMES.get(name, name) for name in _packages()]


def reaching(*urls: str) -> list[str]:
    """The packages, which are called as their modules are, by which these URLs are reached, beside the above.

    Raises MachineError for one that is not here, where the URLs have to be reached as well.
    """
    from fsspec.registry import known_implementations

    found = set[str]()
    for scheme in {url.partition("://")[0] for url in urls}:
        module = known_implementations.get(scheme, {"class": scheme})["class"].partition(".")[0]
        found.add("aiohttp" if scheme in ("http", "https") else module)
    found -= {"fsspec"}
    for name in sorted(found):
        if find_spec(name) is None:
            need, hint = f"{name}, here and there", f"uv pip install {name}"
            raise MachineError(f"reach {' and '.join(urls)}", got=f"no {name}", need=need, hint=hint)
    return sorted(found)


def environment() -> str:
    return hashlib.sha256("\n".join(requirements()).encode()).hexdigest()[:16]


def _packages() -> list[str]:
    needed = (one for one in metadata.requires("eighteen") or () if "extra ==" not in one)
    return sorted(re.split(r"[^\w.-]", one, maxsplit=1)[0].lower() for one in needed)
