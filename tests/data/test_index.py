from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eighteen.base.errors import DataError
from eighteen.data.index import INDEX_DTYPE, open_index, save_index


def test_an_index_comes_back_as_it_was_saved_and_is_mapped(tmp_path: Path) -> None:
    index = np.array([(0, 512, 100, 3, 20, 30, 2**32 - 1), (1, 2**40, 7, 0, 1, 1, 0)], INDEX_DTYPE)
    content = save_index(tmp_path / "full.index.npy", index)
    opened = open_index(tmp_path / "full.index.npy")
    assert isinstance(opened.base, np.memmap)
    assert (tmp_path / "full.index.npy").read_bytes() == content
    np.testing.assert_array_equal(opened, index)


@pytest.mark.parametrize("content", [b"", b"no index at all", np.zeros(3).tobytes()])
def test_other_files_are_no_index(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "full.index.npy").write_bytes(content)
    with pytest.raises(DataError, match="an index that eighteen wrote"):
        open_index(tmp_path / "full.index.npy")


def test_an_array_of_another_type_is_no_index(tmp_path: Path) -> None:
    np.save(tmp_path / "full.index.npy", np.zeros(3))
    with pytest.raises(DataError, match="an array of float64"):
        open_index(tmp_path / "full.index.npy")
