"""Ten classes of drawn things: a seed goes in, ``folder/CLASS NAME/0001.jpg`` comes out.

A class is a texture and a shape. Five textures and five shapes stand on a wheel: each shape wears two textures and each
texture dresses two shapes, so who sees only one of the two is right half of the time. Colour, size, place, turn,
background, clutter and JPEG quality say nothing about the class.
"""

from __future__ import annotations

import colorsys
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from eighteen.base.errors import DataError
from eighteen.base.hardware import num_cpus
from eighteen.demo.things import CLUTTER, SHAPES, TEXTURES, Plane, Shape, Texture

SIDES_PX = (72, 100)  # of a picture, the shorter one
RATIOS = (1.0, 1.28)  # longer side / shorter side
QUALITIES = (60, 95)  # of a JPEG
RADII = (0.32, 0.44)  # of a thing, as shares of the picture's shorter side
TILES = (0.42, 0.62)  # of a texture, as shares of its thing's radius
BLUR_PX = (0.0, 0.7)
GRAIN = (0.0, 0.06)  # standard deviation of the noise, where white is 1

WHEEL = [*TEXTURES, *TEXTURES]
THINGS = tuple((texture, shape) for i, shape in enumerate(SHAPES) for texture in WHEEL[i : i + 2])
CLASSES = tuple(f"{texture} {shape}" for texture, shape in THINGS)


def draw(folder: Path, *, num_samples: int = 3000, seed: int = 18, procs: int | None = None) -> list[Path]:
    """Draw pictures, as many of each class, and return their paths. The same arguments give the same files bit for bit.

    procs: processes that draw; if None, as many as there are cores and 500 pictures for each
    raises DataError if the folder holds anything but these classes
    """
    _refuse_strangers(folder)
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    job, procs = partial(_draw_one, folder, seed), procs or min(num_cpus(), 1 + num_samples // 500)
    if procs == 1:
        return [job(sample) for sample in range(num_samples)]
    with ProcessPoolExecutor(procs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(job, range(num_samples), chunksize=50))


def picture(label: int, number: int, *, seed: int, sides: tuple[int, int] | None = None) -> tuple[Image.Image, int]:
    """The RGB picture with this number in class ``CLASSES[label]``, and the quality of its JPEG: a pure function.

    sides: its width and height in pixels; its thing may then lie anywhere in it, not only in the square in its middle
    """
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, label, number]))
    texture, shape = THINGS[label]
    width, height = sides or _sides(rng)
    canvas = _cloud(rng, width, height)
    for _ in range(rng.integers(2, 6)):
        _paint_clutter(rng, canvas, _anywhere(rng, width, height))
    thing = _inside(rng, width, height, square=sides is None)
    _paint(rng, canvas, thing, SHAPES[shape], TEXTURES[texture])
    for _ in range(rng.integers(0, 2)):
        _paint_clutter(rng, canvas, _at_the_rim(rng, thing))
    return _photograph(rng, canvas), int(rng.integers(*QUALITIES, endpoint=True))


def _draw_one(folder: Path, seed: int, sample: int) -> Path:
    number, label = divmod(sample, len(CLASSES))
    image, quality = picture(label, number + 1, seed=seed)
    path = folder / CLASSES[label] / f"{number + 1:04d}.jpg"
    image.save(path, quality=quality)
    return path


def _refuse_strangers(folder: Path) -> None:
    strangers = sorted({path.name for path in folder.glob("*")} - set(CLASSES))
    if strangers:
        raise DataError(
            f"draw pictures in {folder}",
            got=f"{strangers[0]!r} in it, which is not one of ours",
            need="a new or an empty folder",
            hint="eighteen demo NEW_FOLDER",
        )


@dataclass(frozen=True)
class Place:
    """Where a thing lies: centre and radius in pixels, and the [2, 2] matrix that turns and stretches it."""

    x: float
    y: float
    radius: float
    warp: np.ndarray

    def window(self, width: int, height: int) -> tuple[slice, slice]:
        """The rows and columns that the thing and its shadow can touch."""
        reach = 2.2 * self.radius  # the longest, a stretched bar, ends at 1.5 * 1.26, and its shadow 0.3 further
        top, bottom = np.clip([self.y - reach, self.y + reach], 0, height).astype(int)
        left, right = np.clip([self.x - reach, self.x + reach], 0, width).astype(int)
        return slice(top, bottom), slice(left, right)

    def look(self, window: tuple[slice, slice]) -> tuple[Plane, Plane]:
        """Where these pixels lie in the thing's own frame, in which its radius is 1: two [rows, columns] float32."""
        rows, columns = np.ogrid[window]
        x, y = np.float32(columns - self.x) / self.radius, np.float32(rows - self.y) / self.radius
        (a, b), (c, d) = self.warp.astype(np.float32)
        return a * x + b * y, c * x + d * y


def _sides(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height in pixels, upright or lying."""
    shorter = int(rng.integers(*SIDES_PX, endpoint=True))
    width, height = rng.permutation([shorter, round(shorter * rng.uniform(*RATIOS))])
    return int(width), int(height)


def _inside(rng: np.random.Generator, width: int, height: int, *, square: bool) -> Place:
    """For the thing itself: large, all but a tenth of its radius inside the picture, or in the square in its middle."""
    shorter = min(width, height)
    radius = shorter * rng.uniform(*RADII)
    room = np.array((shorter, shorter) if square else (width, height))
    shift_x, shift_y = rng.uniform(-1, 1, 2) * (room / 2 - 0.9 * radius)
    return Place(width / 2 + shift_x, height / 2 + shift_y, radius, _warp(rng, 1.15))


def _anywhere(rng: np.random.Generator, width: int, height: int) -> Place:
    """For clutter behind the thing."""
    radius = min(width, height) * rng.uniform(0.1, 0.25)
    return Place(rng.uniform(0, width), rng.uniform(0, height), radius, _warp(rng, 1.6))


def _at_the_rim(rng: np.random.Generator, thing: Place) -> Place:
    """For clutter that hides a part of the thing."""
    angle, radius = rng.uniform(0, 2 * np.pi), thing.radius * rng.uniform(0.25, 0.45)
    x, y = thing.x + thing.radius * np.cos(angle), thing.y + thing.radius * np.sin(angle)
    return Place(x, y, radius, _warp(rng, 1.6))


def _warp(rng: np.random.Generator, stretch: float) -> np.ndarray:
    """Any turn, after a stretch of up to this factor along any axis; the area stays."""
    turn, axis = _rotation(rng), _rotation(rng)
    factor = stretch ** rng.uniform(-0.5, 0.5)
    return turn @ axis.T @ np.diag([factor, 1 / factor]) @ axis


def _rotation(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _cloud(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A background of a few colours that run into each other: [3, height, width] float32 in [0, 1]."""
    blots = Image.fromarray(rng.integers(60, 200, (3, 3, 3), dtype=np.uint8))
    cloud = np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC))
    return cloud.transpose(2, 0, 1).astype(np.float32, order="C") / 255


def _paint_clutter(rng: np.random.Generator, canvas: np.ndarray, place: Place) -> None:
    texture = list(TEXTURES.values())[rng.integers(len(TEXTURES))]
    _paint(rng, canvas, place, CLUTTER[rng.integers(len(CLUTTER))], texture)


def _paint(rng: np.random.Generator, canvas: np.ndarray, place: Place, shape: Shape, texture: Texture) -> None:
    """Put a textured shape and its soft shadow on the canvas."""
    window = place.window(*canvas.shape[:0:-1])
    seen = canvas[:, *window]  # a view: painting on it paints on the canvas
    u, v = place.look(window)
    distance = shape(u, v)
    shadow = np.clip(1 - distance / 0.25, 0, 1) * rng.uniform(0.2, 0.5)
    tile, (left, top) = rng.uniform(*TILES), rng.uniform(0, 1, 2).astype(np.float32)
    (a, b), (c, d) = _rotation(rng).astype(np.float32) / np.float32(tile)
    pattern = texture(a * u + b * v + left, c * u + d * v + top, rng)
    ink, ground = _two_colours(rng)
    colours = ground + (ink - ground) * _coverage(pattern * (tile * place.radius))
    colours *= np.clip(-distance / 0.12, 0.2, 1)  # a dark outline
    seen *= 1 - shadow
    seen += (colours - seen) * _coverage(distance * place.radius)


def _coverage(distance_px: Plane) -> Plane:
    """The share of each pixel that lies inside, in [0, 1]."""
    return np.clip(0.5 - distance_px, 0, 1)


def _two_colours(rng: np.random.Generator) -> np.ndarray:
    """A light and a dark colour of any hues, in either order: [2, 3, 1, 1] float32 in [0, 1]."""
    hues, saturations = rng.uniform(0, 1, 2), rng.uniform(0.2, 0.9, 2)
    values = rng.permutation([rng.uniform(0.15, 0.5), rng.uniform(0.75, 1.0)])
    colours = [colorsys.hsv_to_rgb(*hsv) for hsv in zip(hues, saturations, values, strict=True)]
    return np.array(colours, dtype=np.float32)[..., None, None]


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> Image.Image:
    """Through a camera: a little out of focus, a little grain."""
    grain = rng.standard_normal(canvas.shape[1:], dtype=np.float32) * np.float32(rng.uniform(*GRAIN))
    pixels = (np.clip(canvas + grain, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return image.filter(ImageFilter.BoxBlur(rng.uniform(*BLUR_PX)))
