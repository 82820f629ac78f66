"""What a run tells: steps, evaluations and checkpoints become events; and what all ranks agreed on becomes known.

The first rank writes; the others only read what all of them summed up.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from eighteen.base.budget import is_reached, newly_reached
from eighteen.base.errors import BudgetSpent, PeerLost, Stopped, exit_code_of
from eighteen.base.events import STOP, Event, OnEvent, Told, last, read, standing
from eighteen.base.files import unwritable
from eighteen.base.machine import Usage, affinity, processors
from eighteen.base.recipe import Tta
from eighteen.base.schedule import Step
from eighteen.data.decoding import DECODER, NOT_BUILT
from eighteen.data.loader import TrainLoader
from eighteen.data.tolerance import Tolerance
from eighteen.training import checkpoint, dist
from eighteen.training import snapshot as snapshots
from eighteen.training.bringing import keeps
from eighteen.training.comparison import Comparison
from eighteen.training.evaluate import Evaluation
from eighteen.training.heartbeat import Heartbeat
from eighteen.training.job import Job
from eighteen.training.precision import autocast_dtype
from eighteen.training.requests import Requests
from eighteen.training.state import State
from eighteen.training.writer import Saved, Writer

HEARTBEAT_S = 1.0
EXIT_CODES = {"stopped": Stopped.exit_code, "cost": BudgetSpent.exit_code, "BudgetSpent": BudgetSpent.exit_code}
MAX_STREAK = 3  # steps in a row with a non-finite loss before the run ends


class Outcome(NamedTuple):
    """What one step found out, summed over the ranks: loss (summed over samples), hits where they were counted, whether
    it was skipped, and how many ranks ask for what."""

    loss: float
    top1: float
    top5: float
    skipped: float
    stop: float
    save: float
    revise: float
    spent: float
    taken: float


class Scores(NamedTuple):
    """Of the last evaluation: shares in [0, 1], None where there was none; with TTA too, unless that is "none"."""

    top1: float | None = None
    top5: float | None = None
    tta: Tta = "none"
    top1_tta: float | None = None
    top5_tta: float | None = None


class Reporter:
    """Turns what happens into events, for as long as the block lasts; leaves an ``end`` event however it is left.

    is_supervised: whoever started this rank tells of a lost peer, and may go on
    diverged_at: the step that made MAX_STREAK in a row that changed no weight
    is_best: whether this step's evaluation is the best so far
    is_taken: whether this machine's cloud has said that it will take it back
    stop_agreed, save_agreed, revision_agreed, is_spent: what some rank asked for, or found, and all now know
    """

    def __init__(
        self, this: Job, state: State, loader: TrainLoader, pulse: Heartbeat, on_event: OnEvent | None
    ) -> None:
        self._pulse, self._compared = pulse, Comparison(this.world, this.device, state, pulse)
        self._this, self._state, self._loader, self._on_event = this, state, loader, on_event
        self._reader = _Reader(this.device)
        self._writer = Writer(self._saved)
        self._keeps = keeps(this.run, this.world, this.device)
        self._unsaved: OSError | None = None
        self._best_before, self._stall_s = state.best_checkpoint, 0.0
        self._interval = _Interval()
        self._usage = Usage(num_alike=this.world.local_size)
        self._heartbeat_at = self._saved_at = time.monotonic()
        self._cost_done = 0.0
        self._phase: int | None = None
        self._last = Scores()
        self._highest = 0.0  # of the thresholds of top-1 that were told
        hears, is_first = this.world.local_rank == 0, this.world.is_first
        tell = self._event if is_first else _tell_here
        self._requests = Requests(this.run, this.recipe.train.notices, tell, is_first=is_first) if hears else None
        self.is_best = self._stop_asked = False
        self.diverged_at: int | None = None
        self._streak = self._skipped = 0
        self.stop_agreed = self.save_agreed = self.revision_agreed = self.is_spent = False
        self._num_taken = 0  # machines, as far as all ranks know
        num_samples = {name: split.num_samples for name, split in this.data.splits.items()}
        self.tolerance = loader.on_bad = Tolerance(this.run.bad, num_samples, this.recipe.data, self._tell_bad)

    def __enter__(self) -> Self:
        this = self._this
        if self._requests:
            self._requests.start()
        if this.world.is_first:
            self._went_back()
        if NOT_BUILT:
            self._event("warning", text=NOT_BUILT)
        self._event(
            "start",
            recipe=this.recipe.name,
            dataset=str(this.data.path),
            classes=this.num_classes,
            num_samples=this.data.splits["train"].num_samples,
            num_steps=self._state.plan.num_steps,
            epochs=self._state.plan.end / self._state.plan.num_samples,
            world=this.world.size,
            local_world=this.world.local_size,
            cpus=processors(),
            affinity=affinity(),
            device=torch.cuda.get_device_name(this.device) if this.device.type == "cuda" else "cpu",
            precision="bf16" if this.dtype else "fp32",
            bf16=autocast_dtype("auto", this.device) is not None,
            decoder=DECODER,
            energy=self._energy(),
            model=this.recipe.model.name,
            num_weights=sum(weight.numel() for weight in self._state.model.parameters()),
        )
        return self

    def _energy(self) -> dict[str, str]:
        """What measures it, or why nothing does."""
        world, meter = self._this.world, self._state.clock.energy
        others = {"other machines": "not measured"} if world.size > world.local_size else {}
        return {**(meter.how if meter else {}), **others}

    def _went_back(self) -> None:
        """Tell from where a run that began before goes on, be it from its beginning."""
        run, step = self._this.run, self._state.step
        if step == 0 and last(run.events, "start") is None:
            return
        name = checkpoint.name(step) if step else None
        plan = self._state.plan
        epoch = plan.samples_before(step) / plan.num_samples
        told = standing(read(run.events)) if run.events.exists() else []  # a copy of a checkpoint comes without
        reached = (one["top1"] for one in told if one["event"] == "reached" and one["step"] < step)
        self._highest = max(reached, default=0.0)
        evaluated = last(run.events, "eval")
        if evaluated and evaluated["step"] < step:
            self._last = Scores(**{name: evaluated[name] for name in Scores._fields if name in evaluated})
        self._event("resume", step=step, epoch=epoch, checkpoint=name)
        if name and (newest := checkpoint.place(checkpoint.committed(run)[-1]).name) != name:
            self._event("warning", text=f"{newest} is damaged: going on from {name}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if self._requests:
            self._requests.close()
        if error is not None:
            with suppress(OSError):  # a disk that cannot be written to ends the run with what it said first
                self._writer.wait()
                if not (self._pulse.is_supervised and isinstance(error, PeerLost)):
                    self._end(type(error).__name__, exit_code_of(error))

    def is_logged(self, step: Step) -> bool:
        """Whether this step's training accuracy is counted and told."""
        is_last = step.number == self._state.plan.num_steps - 1
        return is_last or step.number % self._this.recipe.train.log_every == 0

    def asks(self, step: Step, stop: bool, save: bool) -> tuple[bool, bool]:
        """(stop, save) that this rank wants; what all agree on comes back with the step's outcome.

        stop, save: what it was asked for by signals
        """
        if self._requests:
            asked = self._requests.take(ends_epoch=self._state.plan.ends_epoch(step) is not None)
            stop, save = stop or asked[0], save or asked[1]
        minutes = (time.monotonic() - self._saved_at) / 60
        is_time = self._this.world.is_first and minutes >= self._this.recipe.train.checkpoint_minutes
        return stop or self._stop_asked, save or is_time

    @property
    def is_taken(self) -> bool:
        return self._requests is not None and self._requests.machine_goes

    def stepped(self, step: Step, outcome: Tensor) -> None:
        """Count a finished step; its outcome is read when the next one is done."""
        self._state.step, self.is_best = step.number + 1, False
        self._writer.poll()
        if step.phase != self._phase:
            self._phase = step.phase
            facts = {name: getattr(step, name) for name in ("phase", "size", "batch", "epoch")}
            kept, kept_bytes = self._loader.kept_bytes[step.phase] or (None, 0)
            self._event("phase", **facts, step=step.number, kept=kept, kept_bytes=kept_bytes)
        if before := self._reader.push(step, outcome):
            self._read(*before)
        for slow in self._compared.stepped(step):
            self.warn(slow)

    def epoch_ended(self, step: Step, epoch: int, found: Evaluation | None) -> None:
        """Tell of an epoch, with its evaluation if there was one."""
        facts = {"step": step.number, "epoch": epoch, "samples": step.first + step.batch}
        if found:
            self._interval.paused_s += found.seconds  # of the interval it fell into, which the next line may end
        self.flush()
        seconds = self._state.clock.seconds
        taken = self._taken(seconds)
        if found:
            newly = newly_reached(self._highest, found.top1)
            self._keep_best(found)
            told = ("split", "size", "rect", "num_samples", "seconds", *Scores._fields)
            scores = {name: getattr(found, name) for name in told}
            scores["loss"] = found.loss if math.isfinite(found.loss) else None
            self._event("eval", **facts, **scores, best=self.is_best, **taken)
            for top1 in newly:
                self._event("reached", step=step.number, top1=top1, seconds=seconds, **taken)
                self._highest = top1
        percent = {name: 100 * getattr(found, name) if found else None for name in ("top1", "top5")}
        self._event("epoch", **facts, hours=self._state.seconds / 3600, **percent, **taken)

    def _keep_best(self, found: Evaluation) -> None:
        """The best top-1 so far, how many evaluations came after it, and whether it is enough; the first two begin anew
        where pictures of another size or shape are evaluated, since such scores do not compare.
        """
        self._last, state = Scores(*(getattr(found, name) for name in Scores._fields)), self._state
        final, until = self._this.recipe.final_eval, self._this.recipe.budget.until
        is_final = [found.size, found.rect] == [final.size, final.rect]
        state.is_reached = is_final and is_reached(until, top1=found.top1, top5=found.top5)
        if state.best_of != (shape := [found.size, found.rect]):
            state.best_of, state.best_top1, state.evals_without_gain = shape, None, 0
        self.is_best = state.best_top1 is None or found.top1 > state.best_top1
        state.best_top1 = max(found.top1, state.best_top1 or 0.0)
        state.evals_without_gain = 0 if self.is_best else state.evals_without_gain + 1

    def _taken(self, seconds: float) -> dict[str, float | None]:
        """What the run has taken in so many: dollars where their price is known, and joules."""
        cost = self._this.recipe.budget.cost(seconds)
        return {**({} if cost is None else {"cost_usd": cost}), "energy_j": self._state.clock.joules}

    def save(self) -> None:
        """Have a checkpoint written (one rank does for each disk) while training goes on; it is told when it is there.

        MachineError if a rank has other weights: they are not saved.
        """
        self._pulse.doing("compare")
        self._compared.check()
        self._pulse.doing("save")
        self.flush()
        began = self._saved_at = time.monotonic()
        self.save_agreed = False
        self._writer.wait()
        self._best_before = self._state.best_checkpoint
        snapshot = snapshots.take(self._this, self._state, is_best=self.is_best)
        if self._keeps:
            self._writer.start(snapshot.write)
        self._stall_s = time.monotonic() - began
        self._interval.paused_s += self._stall_s

    def wait_for_checkpoint(self) -> None:
        """Until the one that is being written, if any, is there."""
        self._writer.wait()

    def _saved(self, saved: Saved | OSError) -> None:
        """A checkpoint is there, or could not be written: the run goes on, and the checkpoints before it stay."""
        self._unsaved = saved if isinstance(saved, OSError) else None
        if isinstance(saved, Saved):
            facts = {"bytes": saved.num_bytes, "seconds": saved.seconds, "best": saved.is_best}
            self._event("checkpoint", step=saved.step, path=saved.path.name, stall_s=self._stall_s, **facts)
            if saved.not_copied:
                self.warn(f"{saved.not_copied}; going on without the copy")
        else:
            self._state.best_checkpoint = self._best_before
            why = unwritable(saved, self._this.run.checkpoints, hint="df -h")
            reason = f"{why.tried}: {why.got}, need {why.need}"
            self.warn(f"no checkpoint could be written, the one before it stays: {reason}")

    def warn(self, text: str) -> None:
        self._event("warning", text=text)

    def tell(self, told: Iterable[Told]) -> None:
        for kind, facts in told:
            self._event(kind, **facts)

    def _tell_bad(self, text: str) -> None:
        """A bad sample is met by one rank: whichever it is, the run says so."""
        if self._this.world.is_first:
            self.warn(text)
        else:
            self._this.run.event("warning", text=text)

    def ended(self, reason: str) -> Scores:
        """The run ended as it should; returns its last evaluation's scores."""
        self.flush()
        self._writer.wait()
        if self._unsaved:
            raise self._unsaved
        self._end(reason, EXIT_CODES.get(reason, 0))
        return self._last

    def _event(self, kind: str, **facts: Any) -> None:
        if not self._this.world.is_first:
            return
        happened = self._this.run.event(kind, **facts)
        if self._on_event and self._on_event(happened) == STOP:
            self._stop_asked = True

    def flush(self) -> None:
        """Read what is still on its way."""
        if before := self._reader.flush():
            self._read(*before)

    def _read(self, step: Step, outcome: Outcome) -> None:
        self.stop_agreed = self.stop_agreed or outcome.stop > 0
        self.save_agreed = self.save_agreed or outcome.save > 0
        self.revision_agreed = self.revision_agreed or outcome.revise > 0
        self.is_spent = self.is_spent or outcome.spent > 0
        self._num_taken = max(self._num_taken, round(outcome.taken))
        self._cost_done += _cost(step)
        self._interval.add(step.batch, None if outcome.skipped else outcome.loss)
        self._streak = self._streak + 1 if outcome.skipped else 0
        if outcome.skipped:
            self._skipped += 1
            self._event("skip", step=step.number, streak=self._streak)
        if self._streak == MAX_STREAK:
            self.diverged_at = step.number
        if self.is_logged(step):
            self._tell(step, outcome)

    def _tell(self, step: Step, outcome: Outcome) -> None:
        interval, self._interval = self._interval, _Interval()
        waits, communication = self._loader.waits(), self._state.communication
        seconds = max(1e-9, time.monotonic() - interval.began)
        samples = step.first + step.batch
        shares = {
            "data": waits["wait_s"] / seconds,
            "communication": (communication.seconds() if communication else 0.0) / seconds,
            "other": interval.paused_s / seconds,
        }
        facts: dict[str, Any] = {
            "step": step.number,
            "num_steps": self._state.plan.num_steps,
            "epoch": samples / self._state.plan.num_samples,
            "loss": interval.mean_loss,
            "images_per_s": interval.samples / max(1e-9, seconds - interval.paused_s),
            "eta_s": self._eta_s(step.number + 1),
            **self._taken(self._state.clock.seconds),
        }
        self._event(
            "step",
            **facts,
            phase=step.phase,
            size=step.size,
            batch=step.batch,
            samples=samples,
            top1=outcome.top1 / step.batch,
            top5=outcome.top5 / step.batch,
            lr=step.lr,
            waits={**shares, "compute": max(0.0, 1 - sum(shares.values()))},
            stages={name: waits[name] for name in ("read_s", "verify_s", "decode_s", "resize_s", "copy_s")},
            skipped=self._skipped,
            memory_bytes=memory_bytes(self._this.device),
            threads=self._loader.num_threads,
            cpus=self._usage.take(),
            **({"ranks": self._of_all(shares)} if self._this.world.size > 1 else {}),
            **num_graphs(),
        )
        if self._this.world.is_first and time.monotonic() - self._heartbeat_at > HEARTBEAT_S:
            self._heartbeat_at = time.monotonic()
            self._this.run.heartbeat(state="training", **facts)

    def _of_all(self, shares: dict[str, float]) -> dict[str, list[float]]:
        """What each rank waited for; all of them come here with the same step, a few times a minute."""
        mine = torch.tensor([shares["data"], shares["communication"]], device=self._this.device)
        data, communication = dist.gather(mine, self._this.world).T.tolist()
        return {"data": data, "communication": communication}

    def _eta_s(self, step: int) -> float:
        """Until the end: of the time it may take, or by the pixels still to come."""
        if seconds := self._this.recipe.budget.seconds:
            return max(0.0, seconds - self._state.clock.seconds)
        left = self._state.plan.pixels_from(step) if step < self._state.plan.num_steps else 0
        return left * self._state.seconds_here / max(1e-9, self._cost_done)

    def revised(self, facts: dict[str, Any]) -> None:
        """Tell of another plan."""
        self.revision_agreed = False
        self._event("budget", **facts)

    def _end(self, reason: str, exit_code: int) -> None:
        facts = {"step": self._state.step, "seconds": self._state.seconds, "exit_code": exit_code}
        facts["num_taken"] = self._num_taken
        facts |= self._last._asdict()
        facts["best_top1"] = self._state.best_top1
        facts["clock_s"] = self._state.clock.seconds
        facts |= self._taken(facts["clock_s"])
        if self._this.world.is_first:
            told = standing(read(self._this.run.events))
            facts["reached"] = [_of_reached(one) for one in told if one["event"] == "reached"]
        self._event("end", reason=reason, **facts)
        if self._this.world.is_first:
            self._state.clock.keep(self._this.run.clock, now=True)
            self._this.run.heartbeat(state=reason, **facts)


def _tell_here(kind: str, **facts: Any) -> None:
    """What another rank than the first has to tell: it writes no events."""
    print(f"{kind} on this machine: {facts}", file=sys.stderr, flush=True)


def memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: on the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def num_graphs() -> dict[str, int]:
    """How many graphs torch.compile has made so far in this process, as a fact; none where it was never used."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return {"graphs": int(dynamo.counters["stats"]["unique_graphs"])} if dynamo else {}


def _of_reached(event: Event) -> dict[str, float | None]:
    return {name: event[name] for name in ("top1", "seconds", "cost_usd", "energy_j") if name in event}


class _Reader:
    """Reads the outcome of a step one step late, so that the device is never waited for."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._pending: tuple[Step, Tensor, torch.cuda.Event | None] | None = None

    def push(self, step: Step, outcome: Tensor) -> tuple[Step, Outcome] | None:
        """Hand in this step's [9] outcome; get back the one before it."""
        done = None
        if self._on_gpu:
            outcome = outcome.to("cpu", non_blocking=True)  # into pinned memory
            done = torch.cuda.Event()
            done.record()
        before, self._pending = self.flush(), (step, outcome, done)
        return before

    def flush(self) -> tuple[Step, Outcome] | None:
        """The outcome not read yet, if there is one."""
        if self._pending is None:
            return None
        (step, outcome, done), self._pending = self._pending, None
        if done is not None:
            done.synchronize()
        return step, Outcome(*outcome.tolist())


class _Interval:
    """What has come together since the last step event."""

    def __init__(self) -> None:
        self.began, self.paused_s = time.monotonic(), 0.0
        self.samples, self._loss, self._counted = 0, 0.0, 0

    def add(self, samples: int, loss: float | None) -> None:
        self.samples += samples
        if loss is not None:
            self._loss, self._counted = self._loss + loss, self._counted + samples

    @property
    def mean_loss(self) -> float | None:
        return self._loss / self._counted if self._counted else None


def _cost(step: Step) -> float:
    """What a step costs in proportion to others: its pixels."""
    return step.batch * step.size**2
