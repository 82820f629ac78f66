from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np

from eighteen.data.shards import RAW_HEADER, RawWriter, TarWriter, crc32c, sha256_of


def test_crc32c_is_castagnoli_s() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720


def test_a_tar_shard_holds_each_sample_where_add_said(tmp_path: Path) -> None:
    contents = [os.urandom(length) for length in (1, 511, 512, 513, 5000)]
    writer = TarWriter(tmp_path, "full-00000.tar")
    offsets = [writer.add(sample, content, label=sample % 2) for sample, content in enumerate(contents)]
    stored = writer.close()
    whole = (tmp_path / "full-00000.tar").read_bytes()
    assert [
        whole[offset : offset + len(content)] for offset, content in zip(offsets, contents, strict=True)
    ] == contents
    with tarfile.open(tmp_path / "full-00000.tar", "r:") as tar:
        assert tar.getnames()[:4] == ["00000000.jpg", "00000000.cls", "00000001.jpg", "00000001.cls"]
        assert [member.offset_data for member in tar if member.name.endswith(".jpg")] == offsets
        label = tar.extractfile("00000001.cls")
        assert label is not None
        assert label.read() == b"1"
    assert stored.num_bytes == len(whole)
    assert stored.sha256 == sha256_of(tmp_path / "full-00000.tar")


def test_the_same_samples_give_the_same_tar(tmp_path: Path) -> None:
    digests = set()
    for name in ("a.tar", "b.tar"):
        writer = TarWriter(tmp_path, name)
        writer.add(0, b"picture", 7)
        digests.add(writer.close().sha256)
    assert len(digests) == 1


def test_a_raw_array_is_an_npy_file_and_its_samples_are_at_their_offsets(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
    writer = RawWriter(tmp_path, "full.raw.npy", sample_shape=(4, 3, 3))
    offsets = [writer.add(sample, one.tobytes(), 0) for sample, one in enumerate(pixels)]
    stored = writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "full.raw.npy", mmap_mode="r"), pixels)
    assert offsets == [RAW_HEADER + 36 * sample for sample in range(5)]
    assert stored.num_bytes == (tmp_path / "full.raw.npy").stat().st_size
    assert stored.sha256 == sha256_of(tmp_path / "full.raw.npy")


def test_a_shard_is_not_there_until_it_is_closed(tmp_path: Path) -> None:
    writer = TarWriter(tmp_path, "full-00000.tar")
    writer.add(0, b"picture", 7)
    assert not (tmp_path / "full-00000.tar").exists()
    writer.discard()
    assert list(tmp_path.iterdir()) == []
