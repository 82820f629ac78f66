"""Weights of a foreign .pth file -> safetensors, unpickled by a process of its own: the only place that loads a pickle.

``import_pth`` starts that process, which is this module run as a program. It accepts tensors and plain containers only
(``weights_only``), on the CPU, and has as much memory, time and disk as the size of the file justifies.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eighteen.base.errors import DataError, UsageError
from eighteen.base.files import unwritable_is_said
from eighteen.training.weights import PICKLED

NESTED = ("state_dict", "model")  # under what people keep the weights in a larger checkpoint
PREFIXES = ("module.", "_orig_mod.")  # of DDP and of torch.compile
MEMORY, TIME_S, BYTES_PER_S = 256 * 2**20, 60, 20 * 2**20  # beyond three times the file; and for it
START_S = 60  # to import torch on a busy machine


def import_pth(source: Path, folder: Path) -> Path:
    """Convert the weights in ``source`` and return the .safetensors file, named by their digest, in ``folder``.

    What was converted before is used again. Raises UsageError if it is no such file, DataError if it cannot be loaded,
    holds anything but tensors in plain containers, or needs more memory than its size justifies.
    """
    if source.suffix.lower() not in PICKLED:
        need, hint = f"a file that torch.save wrote ({', '.join(sorted(PICKLED))})", "leave out --import-pth"
        raise UsageError(f"import {source}", got=repr(source.name), need=need, hint=hint)
    try:
        with source.open("rb") as file:
            digest, num_bytes = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _not_imported(source, error.strerror or str(error)) from error
    dest = folder / f"{source.stem}-{digest[:12]}.safetensors"
    if not dest.exists():
        with unwritable_is_said(folder, hint="df -h, or --runs-dir another"):
            folder.mkdir(parents=True, exist_ok=True)
            _convert(source, dest, timeout_s=START_S + _seconds(num_bytes))
    return dest


def _convert(source: Path, dest: Path, *, timeout_s: float) -> None:
    temp = dest.with_name(f".{dest.name}.{os.getpid()}.tmp")
    command = [sys.executable, "-P", "-m", "eighteen.training.import_pth", str(source), str(temp)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"a process that ended with {done.returncode}"]
            raise _not_imported(source, lines[-1][:300])
        with temp.open("rb") as file:
            os.fsync(file.fileno())
        temp.replace(dest)
    except subprocess.TimeoutExpired as error:
        raise _not_imported(source, f"no end of it for {timeout_s:.0f} s") from error
    finally:
        temp.unlink(missing_ok=True)


def _seconds(num_bytes: int) -> int:
    return TIME_S + num_bytes // BYTES_PER_S


def _not_imported(source: Path, got: str) -> DataError:
    need, hint = "a file of tensors in plain containers", "load it where you trust it, and save it as safetensors"
    return DataError(f"import {source}", got=got, need=need, hint=hint)


def main(source: str, dest: str) -> None:
    """What the process does: load, find the weights, write them. Its last line of errors says what was wrong."""
    import torch
    from safetensors.torch import save_file

    num_bytes = os.stat(source).st_size
    _confine(num_bytes)
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
        save_file(weights_in(loaded), dest)
    except Exception as error:  # it may be any, and only its text is of use to who waits
        sys.exit(_reason(error))


def weights_in(loaded: Any) -> dict[str, Any]:
    """The tensors of a checkpoint under their own names, each with memory of its own. Raises ValueError."""
    import torch

    for _ in NESTED:
        inner = [loaded[key] for key in NESTED if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)]
        loaded = inner[0] if inner else loaded
    if not isinstance(loaded, Mapping):
        raise ValueError(f"a {type(loaded).__name__}, where a model's weights were expected")
    found = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    if not found:
        raise ValueError("no tensors in it")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    for name, tensor in found.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{name!r}, a {tensor.layout} tensor, where dense ones were expected")
        if (claimed := tensor.numel() * tensor.element_size()) > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name!r}, which claims {claimed:,} bytes of {tensor.untyped_storage().nbytes():,}")
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in found.items()}


def _confine(num_bytes: int) -> None:
    """Limit what this process may still take for a file of so many bytes."""
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 2 * num_bytes + 2**20}
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits[resource.RLIMIT_CPU] = int(used.ru_utime + used.ru_stime) + _seconds(num_bytes)
    status = Path("/proc/self/status")
    if status.exists() and (data := re.search(r"VmData:\s+(\d+) kB", status.read_text())):
        limits[resource.RLIMIT_DATA] = 1024 * int(data[1]) + 3 * num_bytes + MEMORY
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def _reason(error: Exception) -> str:
    """One line: of torch's page on weights_only, the line that says what it met."""
    text = str(error) or type(error).__name__
    if met := re.search(r"WeightsUnpickler error:\s*([^\n]+)", text):
        return f"what is no plain tensor: {met[1].strip()}"
    return " ".join(text.split())[:300]


if __name__ == "__main__":
    main(*sys.argv[1:])
