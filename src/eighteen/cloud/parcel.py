"""What a launch sends: this very program, with a digest of it, and what it needs beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

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


def requirements(urls: Iterable[str] = ()) -> list[str]:
    """Packages in the versions that are installed here, whatever they were built for: a machine gets what suits it.

    urls: what the machines read and write, with drivers that may not be installed here: then pip takes what fits
    """
    return [name + _version(name) for name in _packages(urls)]


def modules(urls: Iterable[str] = ()) -> list[str]:
    """The modules of these packages."""
    return [NAMES.get(name, name) for name in _packages(urls)]


def environment(urls: Iterable[str] = ()) -> str:
    return hashlib.sha256("\n".join(requirements(urls)).encode()).hexdigest()[:16]


def _packages(urls: Iterable[str]) -> list[str]:
    needed = (one for one in metadata.requires("eighteen") or () if "extra ==" not in one)
    own = {re.split(r"[^\w.-]", one, maxsplit=1)[0].lower() for one in needed}
    return sorted(own | {driver for url in urls if (driver := _driver(url))})


def _driver(url: str) -> str | None:
    """The package, which is called as its module is, by which fsspec reaches it; None if it does without."""
    from fsspec.registry import known_implementations

    scheme = url.partition("://")[0]
    if scheme in ("http", "https"):
        return "aiohttp"
    module = known_implementations[scheme]["class"].partition(".")[0] if scheme in known_implementations else scheme
    return None if module == "fsspec" else module


def _version(name: str) -> str:
    """Empty for one that is not installed here, as a driver may be."""
    try:
        return f"=={metadata.version(name).partition('+')[0]}"
    except metadata.PackageNotFoundError:
        return ""
