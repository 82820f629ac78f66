"""A trained model in use: pictures in, class names and probabilities out, prepared exactly as evaluation prepared them.

A picture goes the way of a packed one: upright, gray or RGB, a JPEG of the same quality unless it is one already (or
raw pixels, where the dataset has these), the centre crop, the decoder of evaluation, normalised on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eighteen.base.errors import DataError, UsageError
from eighteen.base.hardware import num_cpus
from eighteen.base.recipe import Tta
from eighteen.data.augment import normalise
from eighteen.data.pictures import Unreadable
from eighteen.data.views import named, views, ways
from eighteen.results.predictions import Prediction, Row, Unread
from eighteen.results.preparation import Picture, prepare_moved
from eighteen.training.card import Card
from eighteen.training.precision import autocast_dtype


@dataclass(frozen=True, eq=False)
class _Ready:
    """A picture as the model takes it: pixels [C, H, W] uint8, and other crops of it."""

    path: str
    pixels: NDArray[np.uint8]
    moved: list[NDArray[np.uint8]]


class Classifier:
    """A model with what must be known to use it; made by ``eighteen.load``.

    model: [N, C, H, W] float -> [N, K] logits; it is moved to ``device`` and set to evaluation.
    precision: "bf16", "fp32", or "auto", which takes bfloat16 where the device computes in it, as training does.
    """

    def __init__(
        self,
        model: nn.Module,
        card: Card,
        *,
        device: str | torch.device = "cpu",
        precision: Literal["auto", "bf16", "fp32"] = "auto",
    ) -> None:
        self.card = card
        self._device = torch.device(device)
        self._dtype = autocast_dtype(precision, self._device)
        self._model = model.to(self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.card.classes

    def predict(
        self, pictures: Iterable[Picture], *, top: int = 5, batch: int = 64, tta: str = "none"
    ) -> list[Prediction]:
        """What each picture shows: its ``top`` most probable classes, or all if there are fewer.

        pictures: paths, PIL images, or uint8 arrays [H, W], [H, W, 1] or [H, W, 3]
        tta: test-time augmentation, "flip" or "crops": the mean of the logits over views, see ``data.views``
        raises DataError for the first picture that cannot be read; ``stream`` goes on instead
        """
        rows = list(self.stream(pictures, top=top, batch=batch, tta=tta))
        for row in rows:
            if isinstance(row, Unread):
                raise _unread(row)
        return cast(list[Prediction], rows)

    def stream(self, pictures: Iterable[Picture], *, top: int = 5, batch: int = 64, tta: str = "none") -> Iterator[Row]:
        """As ``predict``, but one by one as they come, and a picture that cannot be read gives a row that says why."""
        if top < 1:
            raise UsageError("predict", got=f"top={top}", need="at least 1", hint="--top 5")
        chosen = named(tta)
        return self._rows(self._prepared(pictures, batch, chosen), min(top, len(self.classes)), chosen)

    def logits(self, pictures: Iterable[Picture], *, batch: int = 64, tta: str = "none") -> Tensor:
        """[N, K] float32 on the CPU, what the model says before softmax. Raises DataError as ``predict`` does."""
        rows, chosen = [torch.empty(0, len(self.classes))], named(tta)
        for chunk in self._prepared(pictures, batch, chosen):
            for one in chunk:
                if isinstance(one, Unread):
                    raise _unread(one)
            rows.append(self._forward([one for one in chunk if isinstance(one, _Ready)], chosen))
        return torch.cat(rows)

    def _rows(self, chunks: Iterable[list[_Ready | Unread]], top: int, tta: Tta) -> Iterator[Row]:
        for chunk in chunks:
            ready = [one for one in chunk if isinstance(one, _Ready)]
            best = self._forward(ready, tta).softmax(1).topk(top, 1)
            answers = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            for one in chunk:
                yield one if isinstance(one, Unread) else self._prediction(one.path, *next(answers))

    def _prediction(self, path: str, labels: list[int], probabilities: list[float]) -> Prediction:
        pairs = tuple((self.classes[label], share) for label, share in zip(labels, probabilities, strict=True))
        return Prediction(path, *pairs[0], pairs)

    def _prepared(self, pictures: Iterable[Picture], batch: int, tta: Tta) -> Iterator[list[_Ready | Unread]]:
        """Pictures in batches, in order."""
        if batch < 1:
            raise UsageError("predict", got=f"batch={batch}", need="at least 1", hint="--batch 64")
        if isinstance(pictures, str | PathLike | Image.Image) or (
            isinstance(pictures, np.ndarray) and pictures.ndim < 4
        ):
            # a path would be taken for its letters, a picture for its rows
            got = f"one {type(pictures).__name__}"
            raise UsageError("predict", got=got, need="a list of pictures", hint='model.predict(["cat.jpg"])')
        return self._batches(iter(pictures), batch, ways(tta, self.card.size))

    def _batches(
        self, pictures: Iterator[Picture], batch: int, moves: Sequence[tuple[int, int]]
    ) -> Iterator[list[_Ready | Unread]]:
        """Threads prepare the next batch while this one is computed."""
        ahead = deque[list[Future[_Ready | Unread]]]()
        with ThreadPoolExecutor(num_cpus()) as pool:
            while chunk := list(islice(pictures, batch)):
                ahead.append([pool.submit(self._ready, picture, moves) for picture in chunk])
                if len(ahead) > 1:
                    yield [future.result() for future in ahead.popleft()]
            for futures in ahead:
                yield [future.result() for future in futures]

    def _ready(self, picture: Picture, moves: Sequence[tuple[int, int]]) -> _Ready | Unread:
        path = _path(picture)
        try:
            pixels, *moved = prepare_moved(picture, self.card, moves)
            return _Ready(path, pixels, moved)
        except Unreadable as error:
            return Unread(path, str(error))

    @torch.inference_mode()
    def _forward(self, ready: list[_Ready], tta: Tta) -> Tensor:
        """[N, K] float32 on the CPU. Pictures of one shape go through together."""
        logits = torch.empty(len(ready), len(self.classes))
        for shape in {one.pixels.shape for one in ready}:
            places = [place for place, one in enumerate(ready) if one.pixels.shape == shape]
            images = self._on_device([ready[place].pixels for place in places])
            moved = [self._on_device(each) for each in zip(*(ready[place].moved for place in places), strict=True)]
            own, others = views(images, moved, tta)
            start = own * self._logits(images)
            logits[places] = sum((weight * self._logits(other) for weight, other in others), start=start).cpu()
        return logits

    def _on_device(self, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
        """[N, C, H, W] uint8"""
        images = torch.from_numpy(np.stack(pictures)).to(self._device)
        return images.contiguous(memory_format=torch.channels_last)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            return self._model(normalise(images, self.card.mean, self.card.std)).float()


def _path(picture: Picture) -> str:
    if isinstance(picture, str | PathLike):
        return str(Path(picture))
    return str(getattr(picture, "filename", ""))


def _unread(row: Unread) -> DataError:
    what = f"read {row.path!r}" if row.path else "read a picture"
    return DataError(what, got=row.error, need="a whole picture", hint="leave it out, or use stream(), which goes on")
