"""Folders anywhere: on a mounted path, or wherever fsspec reaches (s3://, gs://, https://, memory:// ...)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from eighteen.base.errors import DataError, MachineError, UsageError


class Place(NamedTuple):
    """A folder, or a file, on some filesystem."""

    files: Any  # fsspec's AbstractFileSystem, which has no types
    path: str

    def __truediv__(self, name: str) -> Place:
        return Place(self.files, f"{self.path.rstrip('/')}/{name}")

    def exists(self) -> bool:
        return self.files.exists(self.path)

    def names(self) -> list[str]:
        """What lies in it, sorted; nothing if it is not there."""
        try:
            return sorted(PurePosixPath(found).name for found in self.files.ls(self.path, detail=False))
        except FileNotFoundError:
            return []

    def read(self) -> bytes | None:
        """A small file; None if it is not there."""
        try:
            return self.files.cat_file(self.path)
        except FileNotFoundError:
            return None


def at(url: str) -> Place:
    import fsspec  # 0.1 s, and only where somebody asked for it

    files, path = fsspec.url_to_fs(url)
    files.invalidate_cache()  # what others wrote since
    return Place(files, path)


def shortcut(url: str) -> Any | None:
    """obstore's way into a folder, where it is installed and knows one: twice as fast as fsspec's, for half the time of
    processors. It has ``get_range(name, start=, end=)``.

    Whoever it fails, be it for credentials that it does not find, asks fsspec, which says why not.
    """
    try:
        from_url = importlib.import_module("obstore.store").from_url
        return from_url(
            url,
            client_options={"allow_http": True, "connect_timeout": "5s"},
            retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=5)},
        )
    except Exception:  # its own, for a protocol that it does not know
        return None


def is_url(text: str) -> bool:
    return "://" in text


def absolute(url: str, *, flag: str) -> str:
    """A path without its relative part, so that it means the same from any folder; a URL as it is.

    raises UsageError for a URL with a password in it, which would be kept with the run
    """
    if urlsplit(url).password:
        got, hint = "a password in it", "the environment, as its provider reads it (AWS_PROFILE and the like)"
        raise UsageError(flag, got=got, need="a URL without secrets", hint=hint)
    return url if is_url(url) else str(Path(url).absolute())


@contextmanager
def reaching(tried: str, url: str) -> Iterator[None]:
    """Whatever a filesystem of fsspec raises, and each has its own, as a MachineError."""
    try:
        yield
    except (MachineError, DataError, UsageError):
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {str(error) or 'nothing more'}"
        protocol = url.partition("://")[0] if is_url(url) else "file"
        hint = f"a path, or pip install what fsspec needs for {protocol}://, and give it its credentials"
        raise MachineError(f"{tried} {url}", got=got, need="a place that can be reached", hint=hint) from error
