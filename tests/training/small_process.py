"""``eighteen train`` as a process that waits at its gate (``small_nets.GATE``)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from small_nets import GATE
from small_runs import recipe

from eighteen.base import recipe as recipes
from eighteen.data.dataset import Dataset


class Process:
    """It waits at its sixth step until we open the gate.

    options: of the command line
    """

    def __init__(self, data: Dataset, folder: Path, *changes: str, options: Sequence[str] = ()) -> None:
        self.gate, recipe_file = folder / "gate", folder / "gated.toml"
        os.mkfifo(self.gate)
        recipe_file.write_text(recipes.dump(recipe(*changes)))
        command = [sys.executable, "-m", "eighteen", "train", str(data.path), "--recipe", str(recipe_file), *options]
        environment = {**os.environ, GATE: str(self.gate)}
        self.process = subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True)
        self.told = ""

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait_for(self, text: str) -> None:
        """Read what it tells until that is in it; a process that ends without has failed."""
        assert self.process.stderr
        while text not in self.told:
            line = self.process.stderr.readline()
            assert line, f"it ended without {text!r}:\n{self.told}"
            self.told += line

    def open_gate(self) -> None:
        self.gate.open("w").close()

    def end(self) -> int:
        self.told += self.process.communicate()[1]
        return self.process.returncode
