"""Shapes and textures as distances: points go in, how far each lies from the nearest edge comes out.

Drawing by distance gives smooth edges at any size, turn and stretch with a few array operations, because a pixel is
covered by ``clip(0.5 - distance in pixels, 0, 1)`` (Quilez, https://iquilezles.org/articles/distfunctions2d).

A shape has a radius of about 1, a texture one tile a unit. Distances are negative inside a shape, and on the ink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Plane = np.ndarray  # [height, width] float32
Shape = Callable[[Plane, Plane], Plane]
Texture = Callable[[Plane, Plane, np.random.Generator], Plane]


def ring(u: Plane, v: Plane) -> Plane:
    return np.abs(np.hypot(u, v) - 0.68) - 0.32


def triangle(u: Plane, v: Plane) -> Plane:
    along, _ = _wedge(u, v, corners=3)
    return along - 0.6


def square(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - 0.82


def star(u: Plane, v: Plane) -> Plane:
    """Five points at radius 1.2, five notches at 0.55; within a wedge the outline is a line from point to notch."""
    along, across = _wedge(u, v, corners=5)
    notch_along, notch_across = 0.55 * np.cos(np.pi / 5), 0.55 * np.sin(np.pi / 5)
    length = np.hypot(1.2 - notch_along, notch_across)
    return ((along - 1.2) * np.float32(notch_across) + across * np.float32(1.2 - notch_along)) / np.float32(length)


def cross(u: Plane, v: Plane) -> Plane:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - 1, np.minimum(u, v) - 0.38)


def shard(u: Plane, v: Plane) -> Plane:
    """A parallelogram: clutter, never a class."""
    return np.maximum(np.abs(v) - 0.8, np.abs(u + 0.4 * v) - 0.5)


def bar(u: Plane, v: Plane) -> Plane:
    """A thin line: clutter, never a class."""
    return np.maximum(np.abs(u) - 1.5, np.abs(v) - 0.1)


def plain(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    return np.full_like(u, -np.inf)


def striped(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    return _stripe(u)


def dotted(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    return np.hypot(u % 1 - 0.5, v % 1 - 0.5) - 0.3


def checked(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    across, along = _stripe(u), _stripe(v)
    return np.copysign(np.minimum(np.abs(across), np.abs(along)), across * along)


def mottled(u: Plane, v: Plane, rng: np.random.Generator) -> Plane:
    """The sign of a sum of plane waves in random directions: camouflage, with blots of about half a tile."""
    total = np.zeros_like(u)
    for turn, phase in rng.uniform(0, 2 * np.pi, (5, 2)).astype(np.float32):
        total += np.sin(5 * (u * np.cos(turn) + v * np.sin(turn)) + phase)
    return total / 8  # about the slope of the sum where it crosses 0, so that this is a distance


SHAPES: Mapping[str, Shape] = {f.__name__: f for f in (ring, star, triangle, cross, square)}
TEXTURES: Mapping[str, Texture] = {f.__name__: f for f in (plain, striped, dotted, checked, mottled)}
CLUTTER: tuple[Shape, ...] = (shard, shard, bar)


def _wedge(u: Plane, v: Plane, *, corners: int) -> tuple[Plane, Plane]:
    """Fold the plane into one wedge of a polygon: the distances along the wedge's axis and, absolute, across it."""
    angle, wedge = np.arctan2(v, u), np.float32(2 * np.pi / corners)
    angle = np.abs((angle + wedge / 2) % wedge - wedge / 2)
    radius = np.hypot(u, v)
    return radius * np.cos(angle), radius * np.sin(angle)


def _stripe(u: Plane) -> Plane:
    """Half ink, half ground: the distance to the nearer edge of a stripe that repeats with each unit."""
    return np.abs(u % 1 - 0.5) - 0.25
