import io
import os

import pytest

from eighteen.base.errors import DataError, UsageError
from eighteen.results.inputs import expand


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.JPG", "a.png", "notes.txt", "sub/c.webp", "sub/deep/d d.jpeg", "other/[x].jpg", "no_extension"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "stdin", "paths"),
    [
        (["b.JPG", "a.png"], "", ["b.JPG", "a.png"]),
        (["."], "", ["a.png", "b.JPG", "other/[x].jpg", "sub/c.webp", "sub/deep/d d.jpeg"]),
        (["sub"], "", ["sub/c.webp", "sub/deep/d d.jpeg"]),
        (["*.png", "s*"], "", ["a.png", "sub/c.webp", "sub/deep/d d.jpeg"]),
        (["**/*.jp*g"], "", ["other/[x].jpg", "sub/deep/d d.jpeg"]),
        (["other/[x].jpg"], "", ["other/[x].jpg"]),
        (["no_extension", "notes.txt"], "", ["no_extension", "notes.txt"]),
        (["a.png", "-"], "sub/c.webp\r\n\nis not there.jpg\n x ", ["a.png", "sub/c.webp", "is not there.jpg", " x "]),
    ],
)
def test_inputs_become_paths_in_order(folder, inputs, stdin, paths):
    assert [str(path) for path in expand(inputs, io.StringIO(stdin))] == paths


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        ([], UsageError, "predict: got no pictures, need files, folders, globs or - for paths from standard input"),
        (["a.png", "cat.jpg"], UsageError, "predict 'cat.jpg': got no such file, folder or match"),
        (["*.gif"], UsageError, "predict '\\*.gif': got no such file, folder or match"),
        (["empty"], DataError, "predict the folder 'empty': got no file with a picture's extension"),
    ],
)
def test_what_is_not_there_is_an_error_before_the_first_picture(folder, inputs, error, text):
    with pytest.raises(error, match=text):
        expand(inputs)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(folder):
    (folder / "sub" / "deep").chmod(0)
    with pytest.raises(DataError, match="read the folder 'sub/deep': got Permission denied"):
        expand(["sub"])
    (folder / "sub" / "deep").chmod(0o700)


def test_standard_input_is_read_only_as_pictures_are_asked_for():
    def endless():
        while True:
            yield "x.jpg\n"

    assert str(next(expand(["-"], endless()))) == "x.jpg"
