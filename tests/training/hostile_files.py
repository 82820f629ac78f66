"""Files that mean harm, each with the commands that would read it: ``make`` writes them all into a folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from eighteen.base.files import write_json
from eighteen.data import dataset
from eighteen.data.index import INDEX_DTYPE
from eighteen.data.shards import sha256_of

MANY = 2**40


class Case(NamedTuple):
    """code: which the command must end with      says: what must be in its message"""

    name: str
    command: list[str]
    code: int
    says: str


class Exploit:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def npy(shape: tuple[int, ...], descr: str = "|u1", body: bytes = b"x" * 1400) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + body


def safetensors(header: Any, body: bytes = b"x" * 1400) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(shape: list[int], first: int = 0, end: int = 1400) -> dict[str, Any]:
    return {"w": {"dtype": "U8", "shape": shape, "data_offsets": [first, end]}}


def weights(marker: Path) -> dict[str, bytes]:
    pickled, saved = pickle.dumps({"w": Exploit(marker)}, protocol=2), io.BytesIO()
    torch.save({"w": Exploit(marker)}, saved)
    disguised = {"pickle.safetensors": pickled, "archive.safetensors": saved.getvalue()}
    named = {f"weights{suffix}": pickled for suffix in (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".tar")}
    claims = {
        "many.safetensors": safetensors(tensor([MANY], 0, MANY)),
        "wrapped.safetensors": safetensors(tensor([2**33, 2**33])),
        "header.safetensors": struct.pack("<Q", 2**62) + b"{}",
        "backwards.safetensors": safetensors(tensor([4], 8, 4)),
        "nested.safetensors": safetensors(b"[" * 100_000),
        "strange.safetensors": safetensors({"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 1]}}),
    }
    return disguised | named | claims


def jpeg(marker: int, width: int, height: int, scans: int = 0) -> bytes:
    """A header of a JPEG with these claims, and scans without data."""
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "JPEG", progressive=marker == 0xC2)
    content = bytearray(image.getvalue())
    frame = content.index(bytes([0xFF, marker]))
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    scan = content.index(b"\xff\xda")
    last = content.rindex(b"\xff\xda")
    return bytes(content[:scan] + content[last:-2] * scans + content[scan:])


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    whole = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (header, *chunks)
    )
    return b"\x89PNG\r\n\x1a\n" + whole


def pictures(marker: Path) -> dict[str, bytes]:
    zeros = zlib.compress(bytes(2**27), 1)
    webp = b"VP8L" + struct.pack("<I", 10) + b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(5)
    bmp = b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    tiff = [(256, 4, 1, 2**31), (257, 4, 1, 2**31), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 2**31)]
    return {
        "progressive.jpg": jpeg(0xC2, 65_500, 65_500),
        "just-allowed.jpg": jpeg(0xC2, 10_000, 9_999),
        "padded.jpg": jpeg(0xC2, 10_000, 9_999) + bytes(200_000),
        "scans.jpg": jpeg(0xC2, 2_000, 2_000, scans=3_000),
        "baseline.jpg": jpeg(0xC0, 65_500, 65_500),
        "sides.png": png(2**31 - 1, 2**31 - 1),
        "bomb.png": png(30_000, 30_000, (b"IDAT", zeros), (b"IEND", b"")),
        "text.png": png(8, 8, (b"zTXt", b"a\0\0" + zeros), (b"IEND", b"")),
        "profile.png": png(8, 8, (b"iCCP", b"a\0\0" + zeros), (b"IEND", b"")),
        "sides.webp": b"RIFF" + struct.pack("<I", 4 + len(webp)) + b"WEBP" + webp,
        "sides.gif": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0;",
        "sides.bmp": bmp,
        "sides.tif": b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tiff))
        + b"".join(struct.pack("<HHII", *entry) for entry in tiff)
        + bytes(4),
        "program.jpg": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({marker}) (w) file\n".encode(),
        "pickle.png": pickle.dumps(Exploit(marker), protocol=2),
    }


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def sources(folder: Path, marker: Path) -> dict[str, bytes]:
    objects, labels = io.BytesIO(), npy((2,), body=b"\0\1")
    np.save(objects, np.array([Exploit(marker)] * 2, object), allow_pickle=True)
    idx = gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, 2**14, 2**14, 2**12) + bytes(100))
    idx_labels = gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 2) + b"\0\1")
    image = folder / "outside.png"
    Image.new("RGB", (80, 80)).save(image)
    return {
        "objects.npz": zipped(images=objects.getvalue(), labels=labels),
        "labels.npz": zipped(images=npy((2, 8, 8), body=bytes(128)), labels=objects.getvalue()),
        "many.npz": zipped(images=npy((MANY, 8, 8)), labels=labels),
        "bomb.npz": zipped(images=npy((4_200, 2**8, 2**8), body=bytes(4_200 * 2**16)), labels=labels),
        "empty.npz": zipped(images=npy((MANY, 0, 8), body=b""), labels=labels),
        "code.npz": zipped(images=b"\x93NUMPY\x01\x00\x40\0" + b"print()".ljust(64), labels=labels),
        "nested.npz": zipped(images=b"\x93NUMPY\x01\x00\xff\x7f" + b"(" * 0x7FFF, labels=labels),
        "names.npz": zipped(**{"../../x": npy((2,)), "/tmp/y": labels}),
        "no.npz": b"PK\x03\x04" + bytes(100),
        "array/x.npy": npy((MANY,)),
        "idx/train-images-idx3-ubyte.gz": idx,
        "idx/train-labels-idx1-ubyte.gz": idx_labels,
        "up.csv": b"path,label\n../outside.png,a\n../outside.png,b\n",
        "absolute.csv": f"path,label\n{image},a\n".encode(),
        "nul.csv": b"path,label\na\0b.png,a\n",
        "field.csv": b"path,label\n" + b"a" * 200_000 + b",b\n",
        "no.parquet": b"PAR1" + b"\xff" * 100 + struct.pack("<I", 2**31 - 1) + b"PAR1",
    }


def edited(root: Path, data: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the dataset whose description was changed, and sealed again."""
    shutil.copytree(data, root)
    facts = json.loads((root / "dataset.json").read_text())
    change(facts)
    (root / "dataset.json").write_text(dataset.sealed(facts))
    return root


def with_index(root: Path, data: Path, content: bytes) -> Path:
    def change(facts: dict[str, Any]) -> None:
        (root / "train/full.index.npy").write_bytes(content)
        index = facts["splits"]["train"]["renditions"]["full"]["index"]
        index.update(bytes=len(content), sha256=sha256_of(root / "train/full.index.npy"))

    return edited(root, data, change)


def index_of(data: Path, **values: int) -> bytes:
    index, file = np.array(np.load(data / "train/full.index.npy")), io.BytesIO()
    for name, value in values.items():
        index[name][3] = value
    np.save(file, index)
    return file.getvalue()


def datasets(folder: Path, data: Path, marker: Path) -> dict[str, Path]:
    outside, objects = folder / "outside.bin", io.BytesIO()
    outside.write_bytes(b"secret")
    np.save(objects, np.array([Exploit(marker)], object), allow_pickle=True)

    def named(name: str) -> Callable[[dict[str, Any]], object]:
        stored = {"file": name, "bytes": 6, "sha256": sha256_of(outside)}
        return lambda facts: facts["splits"]["train"]["renditions"]["full"].update(shards=[stored])

    made = {
        "up.e18": edited(folder / "up.e18", data, named("../outside.bin")),
        "absolute.e18": edited(folder / "absolute.e18", data, named(str(outside))),
        "samples.e18": edited(folder / "samples.e18", data, lambda f: f["splits"]["train"].update(samples=MANY)),
        "split.e18": edited(folder / "split.e18", data, lambda f: f["splits"].update({"../../x": f["splits"]["val"]})),
        "channels.e18": edited(folder / "channels.e18", data, lambda f: f.update(channels=10**9)),
        "means.e18": edited(folder / "means.e18", data, lambda f: f.update(mean=["a"] * 3)),
        "classes.e18": edited(folder / "classes.e18", data, lambda f: f.update(classes=MANY)),
        "kind.e18": edited(
            folder / "kind.e18", data, lambda f: f["splits"]["val"]["renditions"]["full"].update(kind="pickle")
        ),
        "nested.e18": edited(folder / "nested.e18", data, lambda facts: None),
        "pipe.e18": edited(folder / "pipe.e18", data, lambda facts: None),
        "objects.e18": with_index(folder / "objects.e18", data, objects.getvalue()),
        "many.e18": with_index(folder / "many.e18", data, npy((MANY,), str(INDEX_DTYPE.descr))),
        "offset.e18": with_index(folder / "offset.e18", data, index_of(data, offset=2**64 - 8)),
        "length.e18": with_index(folder / "length.e18", data, index_of(data, length=2**63)),
        "sides.e18": with_index(folder / "sides.e18", data, index_of(data, width=2**31, height=2**31)),
        "label.e18": with_index(folder / "label.e18", data, index_of(data, label=-(2**62))),
        "array.e18": edited(folder / "array.e18", data, lambda facts: None),
    }
    (made["nested.e18"] / "dataset.json").write_text("[" * 1_000_000)
    (made["pipe.e18"] / "val/full.index.npy").unlink()
    os.mkfifo(made["pipe.e18"] / "val/full.index.npy")
    pixels = made["array.e18"] / "train/full.raw.npy"
    pixels.write_bytes(npy((MANY, 16, 16, 3), body=pixels.read_bytes()[128:])[: pixels.stat().st_size].ljust(0))
    return made


def tars(folder: Path, jpegs: Path) -> dict[str, Path]:
    """Datasets with strange members in a shard of val, behind the sound ones."""
    kinds = {
        "up": {"name": "../../evil"},
        "root": {"name": "/tmp/evil"},
        "symlink": {"name": "00000000.jpg.x", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        "hardlink": {"name": "x", "type": tarfile.LNKTYPE, "linkname": "../../../etc/passwd"},
        "device": {"name": "x", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
        "fifo": {"name": "x", "type": tarfile.FIFOTYPE},
        "long": {"name": "x", "type": tarfile.GNUTYPE_LONGNAME, "size": MANY},
        "pax": {"name": "x", "type": tarfile.XHDTYPE, "size": MANY},
        "large": {"name": "x", "size": 2**62},
    }
    made = {}
    for kind, facts in kinds.items():
        member = tarfile.TarInfo()
        for key, value in facts.items():
            setattr(member, key, value)
        header = member.tobuf(tarfile.GNU_FORMAT)

        def change(facts: dict[str, Any], header: bytes = header, root: Path = folder / f"tar-{kind}.e18") -> None:
            (shard,) = facts["splits"]["val"]["renditions"]["full"]["shards"]
            path = root / shard["file"]
            path.write_bytes(path.read_bytes()[:-1024] + header + bytes(1024))
            shard.update(bytes=path.stat().st_size, sha256=sha256_of(path))

        made[kind] = edited(folder / f"tar-{kind}.e18", jpegs, change)
    return made


def signed(checkpoint: Path) -> None:
    """Write the commit mark anew, as whoever changes a file would."""
    files = [file for file in checkpoint.iterdir() if file.name != "commit.json"]
    facts = {f.name: {"bytes": f.stat().st_size, "sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in files}
    write_json(checkpoint / "commit.json", facts)


def runs(folder: Path, run: Path, marker: Path) -> dict[str, Path]:
    """Copies of a run, each with something that no run writes."""
    made: dict[str, Path] = {}

    def copy(name: str) -> Path:
        made[name] = shutil.copytree(run, folder / f"run-{name}")
        for newer in sorted((made[name] / "checkpoints").iterdir())[:-1]:
            shutil.rmtree(newer)
        return next((made[name] / "checkpoints").iterdir())

    def stated(name: str, **values: Any) -> None:
        checkpoint = copy(name)
        state = json.loads((checkpoint / "state.json").read_text())
        state["card"].update(values.pop("card", {}))
        (checkpoint / "state.json").write_text(json.dumps(state | values))
        signed(checkpoint)

    stated("step", step=10**30)
    stated("negative", step=-1)
    stated("seconds", seconds="a")
    stated("best", best_checkpoint="../../../x")
    stated("card", card={"size": 10**9})
    stated("channels", card={"channels": 10**9})
    stated("model", card={"model": {"name": "resnet18", "args": {"checkpoint_path": str(marker)}}})
    for name, content in {"nested": b"[" * 1_000_000, "list": b"[]", "bytes": b"\xff\xfe"}.items():
        checkpoint = copy(name)
        (checkpoint / "state.json").write_bytes(content)
        signed(checkpoint)
    checkpoint = copy("pickle")
    (checkpoint / "model.safetensors").write_bytes(pickle.dumps({"w": Exploit(marker)}, protocol=2))
    signed(checkpoint)
    checkpoint = copy("many")
    (checkpoint / "model.safetensors").write_bytes(safetensors(tensor([MANY], 0, MANY)))
    signed(checkpoint)
    outside = copy("outside") / "commit.json"
    write_json(outside, {"../../../../outside.bin": {"bytes": 6, "sha256": "x"}})
    return made


RECIPES = {
    "epochs": ("epochs = 6.0", "epochs = 1e300"),
    "batch": ("batch = 26\n", "batch = 1000000000000000\n"),
    "size": ("size = 16\n", "size = 1000000000\n"),
    "rates": ("lr = [", "lr = [[0, nan], "),
    "loading": ("[model.args]", '[model.args]\ncheckpoint_path = "weights.pth"'),
    "nested": ('name = "test"', "x = " + "[" * 100_000),
}


def make(folder: Path, data: Path, jpegs: Path, run: Path, marker: Path) -> list[Case]:
    """Write them all below ``folder``.

    data, jpegs, run: sound ones, which are copied      marker: a file that is there only if code was run
    """
    recipe = str(run / "recipe.toml")
    cases = []

    def written(kind: str, files: dict[str, bytes]) -> list[Path]:
        for name, content in files.items():
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / kind / name).write_bytes(content)
        return [folder / kind / name for name in files]

    def add(name: str, code: int, says: str, *command: object) -> None:
        cases.append(Case(name, [str(part) for part in command], code, says))

    out = ("--runs-dir", folder / "runs")
    for path in written("weights", weights(marker)):
        says = "a pickle" if path.suffix != ".safetensors" else "read weights from"
        add(f"init {path.name}", 3, says, "train", data, "--recipe", recipe, "--init", path, *out)
    for path in written("pictures", pictures(marker)):
        add(f"predict {path.name}", 3, "predict every picture", "predict", run, path, "--out", folder / "out.csv")
    (folder / "sources").mkdir()
    for path in written("sources", sources(folder, marker)):
        if path.name.startswith("train-labels"):
            continue
        source = path.parent if path.parent.name in ("idx", "array") else path
        add(f"pack {path.name}", 3, f"read {folder}", "pack", source, folder / "packed" / f"{path.name}.e18")
    (folder / "datasets").mkdir()
    for name, path in datasets(folder / "datasets", data, marker).items():
        add(f"train {name}", 3, str(path), "train", path, "--recipe", recipe, *out)
        add(f"eval {name}", 3, str(path), "eval", run, path)
        if name not in ("many.e18", "pipe.e18"):
            add(f"check {name}", 3, "check" if name != "nested.e18" else str(path), "check", path)
    (folder / "tars").mkdir()
    for name, path in tars(folder / "tars", jpegs).items():
        add(f"check tar {name}", 3, "problems", "check", path)
    (folder / "checkpoints").mkdir()
    for name, path in runs(folder / "checkpoints", run, marker).items():
        events = path / "events.jsonl"  # as of a run that was killed: one that has ended is refused for that
        events.write_text("".join(line for line in events.read_text().splitlines(keepends=True) if '"end"' not in line))
        code = 2 if name == "model" else 3
        picture = folder / "outside.png"
        add(f"predict with {name}", code, "", "predict", path, picture, "--out", folder / "out.csv")
        if name != "model":
            add(f"resume {name}", code, "", "train", "--resume", path)
    text = Path(recipe).read_text()
    for name, (old, new) in RECIPES.items():
        assert old in text
        (folder / f"{name}.toml").write_text(text.replace(old, new))
        add(f"recipe {name}", 2, "", "train", data, "--recipe", folder / f"{name}.toml", *out)
    return cases
