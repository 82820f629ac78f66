import csv
import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from eighteen.results import tables
from eighteen.results.scores import per_class


@dataclass(frozen=True)
class Counted:
    classes: tuple[str, ...]
    confusion: np.ndarray
    calibration: np.ndarray
    num_samples: int = 10
    top1: float = 0.7
    top5: float = 1.0
    loss: float = 0.5
    split: str = "val"
    seconds: float = 2.0
    size: int = 224
    rect: bool = False
    tta: str = "none"
    top1_tta: float | None = None
    top5_tta: float | None = None


CALIBRATION = np.zeros((15, 3))
CALIBRATION[14] = (8, 7.8, 6)
CALIBRATION[7] = (2, 1.0, 1)
SMALL = Counted(("cat", "dog, big", "バラ"), np.array([[4, 2, 0], [1, 3, 0], [0, 0, 0]]), CALIBRATION)


def _read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _shown(evaluation, width=100, **options):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(tables.show(evaluation, **options))
    return capture.get()


def test_per_class_figures_are_those_of_the_matrix():
    cat, dog, rose = per_class(SMALL)
    assert cat == ("cat", 6, 4 / 5, 4 / 6, 8 / 11, "dog, big", 2)
    assert dog == ("dog, big", 4, 3 / 5, 3 / 4, 6 / 9, "cat", 1)
    assert rose == ("バラ", 0, None, None, None, None, 0)


def test_write_leaves_five_files_that_agree(tmp_path):
    tables.write(SMALL, tmp_path / "eval" / "best")
    folder = tmp_path / "eval" / "best"
    files = ["calibration.csv", "classes.csv", "confusion.csv", "confusion.png", "summary.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    macro = {"precision": (4 / 5 + 3 / 5) / 2, "recall": (4 / 6 + 3 / 4) / 2, "f1": (8 / 11 + 6 / 9) / 2}
    assert json.loads((folder / "summary.json").read_text()) == {
        **{"split": "val", "num_samples": 10, "num_classes": 3, "top1": 0.7, "top5": 1.0, "loss": 0.5, "seconds": 2.0},
        **{f"macro_{name}": pytest.approx(value) for name, value in macro.items()},
        "ece": pytest.approx(0.18),
        **{"size": 224, "rect": False, "tta": "none", "top1_tta": None, "top5_tta": None},
    }
    header, *_, rose = _read(folder / "classes.csv")
    assert header == ["class", "samples", "precision", "recall", "f1", "most_confused_with", "times_confused"]
    assert rose == ["バラ", "0", "", "", "", "", "0"]
    assert _read(folder / "confusion.csv") == [
        ["true \\ predicted", "cat", "dog, big", "バラ"],
        ["cat", "4", "2", "0"],
        ["dog, big", "1", "3", "0"],
        ["バラ", "0", "0", "0"],
    ]
    calibration = _read(folder / "calibration.csv")
    assert len(calibration) == 16
    assert calibration[1] == ["0.0", str(1 / 15), "0", "", ""]
    assert calibration[15] == [str(14 / 15), "1.0", "8", "0.975", "0.75"]
    with Image.open(folder / "confusion.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("name", ['say "hi"', "two\nlines", "comma, comma", "=1+1", " ", "caf\udce9"])
def test_any_class_name_can_be_written_and_shown(name, tmp_path):
    evaluation = Counted((name, "other"), np.array([[1, 1], [0, 2]]), CALIBRATION)
    tables.write(evaluation, tmp_path)
    assert _read(tmp_path / "classes.csv")[1][0] == name.encode("utf-8", "backslashreplace").decode()
    assert len(_shown(evaluation).splitlines()) == 6


def test_a_loss_that_is_not_finite_is_null_in_json(tmp_path):
    tables.write(Counted(("a", "b"), np.eye(2, dtype=np.int64), CALIBRATION, loss=float("nan")), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["loss"] is None


def test_few_classes_are_shown_in_their_order():
    text = _shown(SMALL)
    assert "val, 10 pictures of 224 px\n" in text
    assert "without TTA   top-1 70.00 %   top-5 100.00 %   loss 0.5000   ECE 18.00 %" in text
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["class", "cat", "dog,", "バラ"]
    assert "66.7 %" in text
    assert "dog, big (2)" in text


def test_scores_with_tta_stand_below_those_without():
    text = _shown(replace(SMALL, rect=True, tta="flip", top1_tta=0.8, top5_tta=0.9))
    assert "val, 10 pictures of 224 px, rectangles\nwithout TTA   top-1 70.00 %" in text
    assert "\nwith TTA (flip)   top-1 80.00 %   top-5 90.00 %\n" in text.replace(" \n", "\n")


def test_of_many_classes_the_worst_are_shown_first():
    recall = [30, 10, 20, 0]
    matrix = np.array(
        [
            [right if k == j else (40 - right if j == (k + 1) % 4 else 0) for j in range(4)]
            for k, right in enumerate(recall)
        ]
    )
    text = _shown(Counted(("a", "b", "c", "d"), matrix, CALIBRATION), max_rows=2)
    assert [line.split()[0] for line in text.splitlines()[4:6]] == ["d", "b"]
    assert "the 2 worst of 4 classes" in text
