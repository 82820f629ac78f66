"""eighteen trains image classifiers as fast and as cheaply as the hardware allows.

From a folder of pictures to what a picture shows::

    import eighteen

    data = eighteen.pack("photos/", "photos.e18")
    result = eighteen.train(data)
    model = eighteen.load(result.run)
    model.predict(["cat.jpg"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eighteen.api import doctor, evaluate, load, open, pack, resume, stop, train
    from eighteen.base.errors import EighteenError
    from eighteen.base.events import STOP
    from eighteen.base.recipe import Recipe
    from eighteen.base.result import Result
    from eighteen.data.dataset import Dataset
    from eighteen.results.classifier import Classifier
    from eighteen.results.predictions import Prediction

__version__ = "0.1.0"

_HOMES = {
    "pack": "eighteen.api",
    "open": "eighteen.api",
    "train": "eighteen.api",
    "resume": "eighteen.api",
    "stop": "eighteen.api",
    "doctor": "eighteen.api",
    "evaluate": "eighteen.api",
    "load": "eighteen.api",
    "Dataset": "eighteen.data.dataset",
    "Recipe": "eighteen.base.recipe",
    "Result": "eighteen.base.result",
    "Classifier": "eighteen.results.classifier",
    "Prediction": "eighteen.results.predictions",
    "EighteenError": "eighteen.base.errors",
    "STOP": "eighteen.base.events",
}

__all__ = [
    "STOP",
    "Classifier",
    "Dataset",
    "EighteenError",
    "Prediction",
    "Recipe",
    "Result",
    "doctor",
    "evaluate",
    "load",
    "open",
    "pack",
    "resume",
    "stop",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import eighteen`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'eighteen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
