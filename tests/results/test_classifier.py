from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eighteen.base.errors import DataError, UsageError
from eighteen.results.classifier import Classifier
from eighteen.results.predictions import Prediction, Unread
from eighteen.training.card import Card

CARD = Card(
    ("red", "green", "blue"), 3, 8, 1.0, False, (0.25, 0.5, 0.5), (0.5, 0.25, 0.5), "raw", {"name": "none", "args": {}}
)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Brightest(nn.Module):
    """Logits are the means of the channels; asserts what a model may rely on."""

    def forward(self, images):
        assert images.shape[1:] == (3, 8, 8)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert not self.training
        return images.mean((2, 3))


@pytest.fixture
def classifier():
    return Classifier(Brightest(), CARD, precision="fp32")


@pytest.fixture
def paths(tmp_path):
    found = []
    for number in range(20):
        name = list(COLOURS)[number % 3]
        found.append(tmp_path / f"{number:02} {name}.png")
        Image.new("RGB", (8 + number, 10), COLOURS[name]).save(found[-1])
    return found


def test_labels_come_in_the_order_of_the_pictures(classifier, paths):
    predictions = classifier.predict(map(str, paths), batch=3)
    assert [prediction.path for prediction in predictions] == [str(path) for path in paths]
    assert [prediction.label for prediction in predictions] == [path.stem.split()[1] for path in paths]
    assert all(isinstance(prediction, Prediction) for prediction in predictions)


def test_probabilities_are_softmax_of_the_logits_from_the_most_probable_down(classifier, paths):
    prediction = classifier.predict(paths[:1], top=3)[0]
    logits = torch.tensor([(1 - 0.25) / 0.5, (0 - 0.5) / 0.25, (0 - 0.5) / 0.5])  # normalised red
    assert classifier.logits(paths[:1])[0].tolist() == pytest.approx(logits.tolist())
    red, green, blue = logits.softmax(0).tolist()
    assert prediction.label == "red"
    assert prediction.probability == pytest.approx(red)
    assert [label for label, _ in prediction.top] == ["red", "blue", "green"]
    assert [share for _, share in prediction.top] == pytest.approx([red, blue, green])


@pytest.mark.parametrize(("top", "count"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_top_is_at_most_the_number_of_classes(classifier, paths, top, count):
    assert len(classifier.predict(paths[:1], top=top)[0].top) == count


@pytest.mark.parametrize("batch", [1, 7, 20, 64])
def test_the_batch_changes_nothing(classifier, paths, batch):
    assert torch.equal(classifier.logits(paths, batch=batch), classifier.logits(paths, batch=20))


def test_images_and_arrays_are_taken_as_files_are(classifier, paths):
    with Image.open(paths[1]) as image:
        pixels = np.asarray(image)
        predictions = classifier.predict([paths[1], image, Image.fromarray(pixels), pixels])
    assert len({prediction.top for prediction in predictions}) == 1
    assert [prediction.path for prediction in predictions] == [str(paths[1]), str(paths[1]), "", ""]
    assert [prediction.label for prediction in classifier.predict(np.stack([pixels, pixels]))] == ["green", "green"]


def test_no_pictures_give_no_predictions(classifier):
    assert classifier.predict([]) == []
    assert classifier.logits([]).shape == (0, 3)


def test_stream_reports_what_cannot_be_read_and_goes_on(classifier, paths):
    paths[1].write_bytes(b"")
    paths[5].unlink()
    rows = list(classifier.stream(paths, batch=4))
    assert [str(row.path) for row in rows] == [str(path) for path in paths]
    assert [number for number, row in enumerate(rows) if isinstance(row, Unread)] == [1, 5]
    assert rows[1] == Unread(str(paths[1]), "an empty file")
    assert rows[5] == Unread(str(paths[5]), "No such file or directory")


def test_a_batch_in_which_nothing_can_be_read_is_no_batch_for_the_model(classifier):
    assert [type(row) for row in classifier.stream(["no.jpg", "nor.jpg"])] == [Unread, Unread]


def test_stream_takes_pictures_only_a_batch_ahead(classifier, paths):
    taken = []

    def watched():
        for path in paths:
            taken.append(path)
            yield path

    stream = classifier.stream(watched(), batch=2)
    assert taken == []
    next(stream)
    assert len(taken) == 4
    stream.close()


def test_predict_and_logits_raise_for_a_picture_that_cannot_be_read(classifier, paths):
    paths[1].write_bytes(b"")
    for attempt in (classifier.predict, classifier.logits):
        with pytest.raises(DataError, match=r"read '.*01 green.png': got an empty file, need a whole picture"):
            attempt(paths)


@pytest.mark.parametrize("one", ["cat.jpg", Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), np.uint8)])
def test_one_picture_without_a_list_is_refused(classifier, one):
    for attempt in (classifier.predict, classifier.logits, classifier.stream):
        with pytest.raises(UsageError, match=r"got one (str|Image|ndarray), need a list of pictures"):
            attempt(one)


@pytest.mark.parametrize("options", [{"top": 0}, {"batch": 0}, {"batch": -1}])
def test_counts_below_one_are_refused(classifier, options):
    with pytest.raises(UsageError, match=r"got (top|batch)=-?\d, need at least 1"):
        classifier.stream(["cat.jpg"], **options)


def test_an_error_of_the_model_is_not_taken_for_one_of_a_picture(paths):
    class Broken(nn.Module):
        def forward(self, images):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(Classifier(Broken(), CARD).stream(paths))


def test_bf16_gives_float32_logits_near_those_of_fp32(paths):
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
    full, half = (Classifier(model, CARD, precision=precision).logits(paths) for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("size", [8, 96])
@pytest.mark.parametrize(("tta", "num_views"), [("none", 1), ("flip", 2), ("crops", 6)])
def test_with_tta_logits_are_the_mean_over_the_views(paths, size, tta, num_views):
    seen = []

    class Watched(nn.Module):
        def forward(self, images):
            assert images.shape[1:] == (3, size, size)
            seen.append(images)
            return images[:, :, : size // 2, : size // 4].mean((2, 3)) ** 2

    card = replace(CARD, size=size, crop=0.5, kind="jpeg")
    noise = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    classifier = Classifier(Watched(), card, precision="fp32")
    found = classifier.logits([noise, *paths[:3]], tta=tta)
    assert len(seen) == num_views
    weights = {1: [1], 2: [0.5, 0.5], 6: [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]}[num_views]
    views = [images[:, :, : size // 2, : size // 4].mean((2, 3)) ** 2 for images in seen]
    torch.testing.assert_close(found, sum(weight * view for weight, view in zip(weights, views, strict=True)))
    if size > 64:  # other crops, not only shifted pixels
        assert len({round(images[0].sum().item()) for images in seen}) == (3 if tta == "crops" else 1)


def test_a_mistyped_tta_is_refused(classifier):
    with pytest.raises(UsageError, match="did you mean 'crops'"):
        classifier.stream(["cat.jpg"], tta="crop")
