"""Whether ``torch.compile`` pays on a CPU: processor time of a step in bf16 as it is over compiled, in turns on one
thread, and of the compiling itself, with an empty cache and in a second process with a full one.

Processor time, since other processes may have the cores as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from record import record, spread

CASES = {  # net, size, batch, rounds
    "CompactNet (tiny), 28 px": ("tiny", 28, 128, 21),
    "CompactNet (small), 96 px": ("small", 96, 64, 11),
    "CompactNet (small), 128 px": ("small", 128, 64, 7),
    "WhitenedNet, 32 px": ("whitened", 32, 100, 7),
    "resnet18, 96 px": ("resnet18", 96, 16, 9),
    "resnet50, 96 px": ("resnet50", 96, 8, 7),
}


def measure(name: str, size: int, batch: int, rounds: int) -> dict[str, object]:
    import timm
    import torch
    import torch.nn.functional as F

    from eighteen.training.compact import CompactNet
    from eighteen.training.whitened import WhitenedNet

    nets = {
        "tiny": lambda: CompactNet(10, 3, widths=[32, 64, 128], stem_stride=2),
        "small": lambda: CompactNet(10, 3),
        "whitened": lambda: WhitenedNet(10, 3),
    }
    torch.set_num_threads(1)
    make = nets.get(name, lambda: timm.create_model(name, num_classes=10))
    net = make().to(memory_format=torch.channels_last)
    compiled = torch.compile(net, dynamic=False)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64)

    def step(net: Callable[..., torch.Tensor]) -> float:
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images)
        F.cross_entropy(logits.float(), labels).backward()
        return time.process_time() - began

    step(net)
    began = os.times()
    step(compiled)
    compile_s = sum(os.times()[:4]) - sum(began[:4])  # with the C++ compiler's
    step(compiled)
    pairs = [(step(net), step(compiled)) for _ in range(rounds)]
    return {
        "compile_s": round(compile_s, 1),
        "eager_ms": spread([1e3 * eager for eager, _ in pairs]),
        "speedup": spread([eager / after for eager, after in pairs]),
    }


def process(cache: str, *case: object) -> dict[str, object]:
    own = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *map(str, case)]
    return json.loads(subprocess.check_output(command, env={**os.environ, **own}, text=True).splitlines()[-1])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        net, *numbers = sys.argv[1:]
        print(json.dumps(measure(net, *map(int, numbers))))
    else:
        found = {}
        for name, case in CASES.items():
            with tempfile.TemporaryDirectory() as cache:
                found[name] = process(cache, *case)
                found[name]["compile_again_s"] = process(cache, *case[:3], 1)["compile_s"]
        record("compiling", **found)
