"""Inside a rank: its device, its process group, and what the ranks say to each other."""

# No postponed annotations here: DDP inspects those of its communication hook.

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from eighteen.base.errors import EighteenError, MachineError, PeerLost
from eighteen.base.hardware import num_cpus
from eighteen.base.world import FILE_STORE, World
from eighteen.training import meeting


def device_of(world: World) -> torch.device:
    """The GPU of this rank, or the CPU where there is none; MachineError if this machine has fewer GPUs than ranks."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if world.local_rank >= torch.cuda.device_count():
        got = f"rank {world.local_rank} on a machine with {torch.cuda.device_count()} GPUs"
        hint = f"--gpus {torch.cuda.device_count()}"
        raise MachineError("take a GPU for every rank", got=got, need="a GPU for each", hint=hint)
    return torch.device("cuda", world.local_rank)


def gpus_of(world: World, device: torch.device) -> list[str]:
    """The GPUs of all ranks on this machine, as NVML calls them; none where they compute on processors."""
    places = range(world.local_size) if device.type == "cuda" else ()
    return [f"GPU-{torch.cuda.get_device_properties(place).uuid}" for place in places]


@contextmanager
def connected(world: World, device: torch.device, *, timeout_s: float = 600) -> Iterator[None]:
    """The process group of this world for as long as the block lasts: NCCL between GPUs, gloo between CPUs.

    Alone there is none. A group that somebody else has set up is used and left standing.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif world.local_size > 1:
        torch.set_num_threads(max(1, num_cpus() // world.local_size))
    ours = world.size > 1 and not dist.is_initialized()
    with peers_needed(world):
        if ours:
            timeout = timedelta(seconds=timeout_s)
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=_meeting(world, timeout),
                rank=world.rank,
                world_size=world.size,
                timeout=timeout,
                device_id=device if device.type == "cuda" else None,
            )
        try:
            yield
        finally:
            if ours:
                dist.destroy_process_group()


def _meeting(world: World, timeout: timedelta) -> Store:
    """Where the ranks find each other: in a file, without any listening socket, or as the environment says."""
    file, has_agent = os.environ.get(FILE_STORE), os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not file and not has_agent:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        is_alone = world.size == world.local_size
        return meeting.store(host, port, world.size, is_first=world.is_first, is_alone=is_alone, timeout=timeout)
    store, _, _ = next(rendezvous(f"file://{file}" if file else "env://", world.rank, world.size, timeout=timeout))
    # torchrun's agent keeps one store over all attempts: without a prefix the ranks of the next find the addresses of
    # dead ones. With several agents each counts the attempts on its own.
    if has_agent and os.environ.get("GROUP_WORLD_SIZE") == "1":
        return PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return store


@contextmanager
def peers_needed(world: World) -> Iterator[None]:
    """Say PeerLost where torch, in words of its own, says that another rank no longer answers."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        got = f"a rank that no longer answers rank {world.rank} ({str(error).splitlines()[0]})"
        hint = "what the other ranks said; then eighteen train --resume RUN"
        raise PeerLost(f"train on {world.size} ranks", got=got, need="all ranks until the end", hint=hint) from error


def share(value: Any, world: World, device: torch.device, *, source: int = 0) -> Any:
    """The ``value`` (anything JSON could hold) of one rank, the first if no other is named, on every rank."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source, device=device)
    return box[0]


def require_all(failure: EighteenError | None, world: World, device: torch.device) -> None:
    """Go on if no rank has failed; else raise its own ``failure`` on each that has, and PeerLost on the others."""
    failed = gather(torch.tensor([int(failure is not None)], device=device), world).flatten().tolist()
    if failure is not None:
        raise failure
    if any(failed):
        got = f"an error on {' and '.join(f'rank {rank}' for rank, is_ in enumerate(failed) if is_)}"
        need, hint = "every rank to make itself ready", "what that rank said"
        raise PeerLost(f"train on {world.size} ranks", got=got, need=need, hint=hint)


def sum_(tensor: Tensor, world: World) -> Tensor:
    """Add a tensor up over all ranks, in place."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor, world: World) -> Tensor:
    """The tensors of all ranks, [ranks, ...], on every rank."""
    every = tensor.new_empty(world.size * tensor.numel())
    dist.all_gather_into_tensor(every, tensor.flatten())
    return every.view(world.size, *tensor.shape)


def same_weights(model: nn.Module, world: World) -> None:
    """Give all ranks the first one's weights and buffers, as DDP does for what it wraps."""
    for tensor in (*model.parameters(), *model.buffers()) if world.size > 1 else ():
        dist.broadcast(tensor.detach(), src=0)


class Communication:
    """How long the ranks' gradients kept a step waiting: from the last one ready to the end of the last all-reduce.

    On a GPU both ends are events on the compute stream, read when somebody asks; on a CPU they are the clock.

    reached: called when gradients are ready to travel
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu, self._seconds, self._told = device.type == "cuda", 0.0, 0.0
        self.reached: Callable[[], object] = lambda: None
        self._ready = self._mark()
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def join(self, model: DistributedDataParallel) -> None:
        """See the gradients of ``model`` travel."""
        model.register_comm_hook(None, self._all_reduce)

    def ready(self) -> None:
        """Gradients are about to travel."""
        self._ready = self._mark()
        self.reached()

    def _all_reduce(
        self,
        _state: None,
        bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]  # public, but not in __all__
    ) -> torch.futures.Future[Tensor]:
        self.ready()
        gradients = bucket.buffer().div_(dist.get_world_size())
        return dist.all_reduce(gradients, async_op=True).get_future().then(lambda done: done.value()[0])

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def step_done(self) -> None:
        """The gradients are there."""
        if self._on_gpu:
            self._pending.append((self._ready, self._mark()))
        else:
            self._seconds += time.perf_counter() - self._ready

    def waited_s(self) -> float:
        """Seconds waited so far, as far as the device has come."""
        while self._pending and self._pending[0][1].query():
            ready, done = self._pending.popleft()
            self._seconds += ready.elapsed_time(done) / 1000
        return self._seconds

    def seconds(self) -> float:
        """Seconds waited since the last call, as far as the device has come."""
        waited, self._told = self.waited_s() - self._told, self._seconds
        return waited


def parallel(model: nn.Module, world: World, device: torch.device) -> nn.Module:
    """The model as the step sees it: in DDP if there are several ranks."""
    if world.size == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    ranked = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    ranked.broadcast_buffers = False  # running statistics are averaged by us, not broadcast each step
    return ranked
