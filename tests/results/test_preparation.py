import io
import shutil
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from eighteen.base.recipe import Eval
from eighteen.base.world import World
from eighteen.data import dataset
from eighteen.data.loader import eval_batches
from eighteen.data.pack import pack
from eighteen.data.pictures import Unreadable
from eighteen.results.preparation import prepare
from eighteen.training.card import Card


def _card(kind: Literal["jpeg", "raw"] = "jpeg", *, channels=3, size=32, crop=0.875, rect=False):
    mean = (0.5,) * channels
    return Card(("a", "b"), channels, size, crop, rect, mean, mean, kind, {"name": "none", "args": {}})


def _picture(width, height, mode="RGB", seed=0):
    """Smooth, so that JPEG and resizing change little."""
    shape = (4, 4) if mode == "L" else (4, 4, len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def _saved(image, **options):
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def _file(tmp_path, content, name="picture"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def _odd_jpegs(folder):
    """Pictures that packing converts: rotated, CMYK, gray, transparent."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "odd").mkdir(parents=True)
    _picture(70, 50).save(folder / "odd" / "rotated.jpg", exif=exif)
    _picture(70, 50).convert("CMYK").save(folder / "odd" / "cmyk.jpg")
    _picture(70, 50, "L").save(folder / "odd" / "gray.jpg")
    _picture(70, 50, "RGBA").save(folder / "odd" / "transparent.png")
    _picture(300, 200).save(folder / "odd" / "baseline.jpg")


def _tiny(folder):
    for name in ("noise", "more"):
        (folder / name).mkdir(parents=True)
        for seed in range(3):
            _picture(32, 32, seed=seed + len(name)).save(folder / name / f"{seed}.png")


@pytest.mark.parametrize(("made", "kind"), [(_odd_jpegs, "jpeg"), (_tiny, "raw")])
def test_the_pixels_are_those_of_evaluation_bit_for_bit(made, kind, pictures, tmp_path):
    source = tmp_path / "source"
    if kind == "jpeg":
        shutil.copytree(pictures, source)
    made(source)
    pack(source, tmp_path / "packed.e18", val=0.5, procs=1)
    data = dataset.open(tmp_path / "packed.e18")
    card, settings, compared = _card(kind), Eval(size=32, crop=0.875, rect=False, batch=16, every=1), 0
    for split in data.splits.values():
        assert split.renditions["full"].kind == kind
        for batch in eval_batches(split, settings, World(), device=torch.device("cpu"), channels=3):
            for sample, image in zip(batch.ids.tolist(), batch.images.numpy(), strict=True):
                assert (prepare(source / split.source(sample), card) == image).all(), split.source(sample)
                compared += 1
    assert compared == sum(1 for path in source.rglob("*") if path.is_file())


def test_with_rect_a_picture_is_prepared_as_a_batch_of_its_own(tmp_path):
    for number, (width, height) in enumerate([(60, 40), (40, 90), (50, 50), (400, 20)]):
        for name in ("a", "b"):
            (tmp_path / "source" / name).mkdir(parents=True, exist_ok=True)
            _picture(width, height, seed=number).save(tmp_path / "source" / name / f"{number}.jpg")
    pack(tmp_path / "source", tmp_path / "packed.e18", procs=1)
    settings, shapes = Eval(size=32, crop=0.875, rect=True, batch=1, every=1), set()
    for split in dataset.open(tmp_path / "packed.e18").splits.values():
        for batch in eval_batches(split, settings, World(), device=torch.device("cpu"), channels=3):
            picture = tmp_path / "source" / split.source(int(batch.ids[0]))
            assert (prepare(picture, _card(rect=True)) == batch.images[0].numpy()).all(), picture
            shapes.add(tuple(batch.images.shape[2:]))
    assert shapes == {(32, 64), (64, 32), (32, 32)}


def test_a_baseline_jpeg_is_decoded_from_its_own_bytes_in_the_centre_crop(tmp_path):
    content = _saved(_picture(60, 40), format="JPEG", quality=95)
    with Image.open(io.BytesIO(content)) as image:
        side, left, top = 35.0, 12.5, 2.5  # 0.875 of 40
        box = (left, top, left + side, top + side)
        expected = image.resize((32, 32), Image.Resampling.BILINEAR, box=box)
    found = prepare(_file(tmp_path, content), _card()).astype(int)
    assert np.abs(found - np.asarray(expected).transpose(2, 0, 1)).max() <= 2  # the native decoder rounds once


def test_other_pictures_become_jpegs_first_as_in_packing(tmp_path):
    image = _picture(32, 32)
    encoded = np.asarray(Image.open(io.BytesIO(_saved(image, format="JPEG", quality=90, subsampling="4:2:0"))))
    pixels = prepare(_file(tmp_path, _saved(image, format="PNG")), _card(crop=1.0))
    assert (pixels == encoded.transpose(2, 0, 1)).all()
    assert (pixels != np.asarray(image).transpose(2, 0, 1)).any()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_raw_pictures_are_the_pixels_themselves(mode, channels, tmp_path):
    image = _picture(32, 32, mode)
    pixels = prepare(_file(tmp_path, _saved(image, format="PNG")), _card("raw", channels=channels, crop=1.0))
    assert pixels.shape == (channels, 32, 32)
    assert (pixels == np.asarray(image).reshape(32, 32, channels).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
@pytest.mark.parametrize("size", [(64, 48), (20, 31), (1, 1), (500, 3)])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 1), ("L", 3), ("RGBA", 3)])
def test_any_size_and_mode_takes_the_shape_that_the_model_wants(kind, size, mode, channels, tmp_path):
    width, height = size
    content = _saved(_picture(width, height, mode), format="PNG")
    pixels = prepare(_file(tmp_path, content), _card(kind, channels=channels))
    assert pixels.shape == (channels, 32, 32)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_files_images_and_arrays_of_the_same_pixels_are_the_same(kind, tmp_path):
    image, card = _picture(50, 40), _card(kind)
    from_file = prepare(_file(tmp_path, _saved(image, format="PNG")), card)
    assert (prepare(image, card) == from_file).all()
    assert (prepare(np.asarray(image), card) == from_file).all()
    assert (prepare(np.asarray(image)[::-1, ::-1][::-1, ::-1], card) == from_file).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_images_of_any_mode_are_taken(mode):
    assert prepare(_picture(40, 40).convert("L" if mode == "I;16" else "RGB").convert(mode), _card()).shape == (
        3,
        32,
        32,
    )


def test_pictures_are_turned_upright(tmp_path):
    image = _picture(40, 40)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = image.transpose(Image.Transpose.ROTATE_180)
    card = _card("raw", crop=1.0)
    path = _file(tmp_path, _saved(turned, format="PNG", exif=exif))
    assert (prepare(path, card) == prepare(image, card)).all()
    with Image.open(path) as opened:
        assert (prepare(opened, card) == prepare(image, card)).all()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "an empty file"),
        (b"no picture at all", "not a picture that can be read: it begins with b'no picture a"),
        (_saved(_picture(64, 64), format="JPEG")[:-300], "truncated|end"),
        (_saved(_picture(64, 64), format="PNG")[:-300], "truncated|broken|end"),
    ],
)
def test_what_is_no_whole_picture_is_refused_with_its_cause(content, cause, tmp_path):
    with pytest.raises(Unreadable, match=cause):
        prepare(_file(tmp_path, content), _card())


@pytest.mark.parametrize(("path", "cause"), [("none.jpg", "No such file"), (".", "Is a directory"), ("a\0b", "null")])
def test_paths_without_a_file_are_refused_with_their_cause(path, cause, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Unreadable, match=cause):
        prepare(path, _card())


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 4), np.float32), ((4, 4, 2), np.uint8), ((3, 4, 4), np.uint8), ((4,), np.uint8), ((0, 4, 3), np.uint8)],
)
def test_arrays_of_another_kind_are_refused(shape, dtype):
    with pytest.raises(
        Unreadable, match=r"an array (uint8|float32) \[.*\], not uint8 \[H, W\], \[H, W, 1\] or \[H, W, 3\]"
    ):
        prepare(np.zeros(shape, dtype), _card())
