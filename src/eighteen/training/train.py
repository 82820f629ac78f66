"""The trainer: a recipe over a dataset -> checkpoints and events.

``train`` is the outline; the hot path is ``step.train_step``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from eighteen.base import clock as clocks
from eighteen.base.budget import gone
from eighteen.base.energy import Energy
from eighteen.base.errors import BudgetSpent, Diverged, Stalled, Stopped, UsageError
from eighteen.base.events import OnEvent, Told
from eighteen.base.hardware import keep_freed_memory
from eighteen.base.recipe import Recipe
from eighteen.base.result import Result
from eighteen.base.rundir import RunDir
from eighteen.base.schedule import Step
from eighteen.base.world import World
from eighteen.data.dataset import Dataset
from eighteen.data.loader import TrainLoader
from eighteen.data.maker import Batch
from eighteen.data.tolerance import OnBad
from eighteen.training import checkpoint, dist
from eighteen.training import state as states
from eighteen.training.compiling import compile_ahead
from eighteen.training.evaluate import Evaluation, evaluate
from eighteen.training.fixing import Fixing
from eighteen.training.heartbeat import Heartbeat
from eighteen.training.job import Job, job
from eighteen.training.pace import Pace
from eighteen.training.recalibration import recalibrate
from eighteen.training.reporting import MAX_STREAK, Reporter, Scores
from eighteen.training.room import Room
from eighteen.training.state import State
from eighteen.training.stopping import StopSignals
from eighteen.training.watchdog import watchdog

PATIENCE_S = 5.0  # with a batch that does not come, before the run says why


def train(
    recipe: Recipe,
    data: Dataset,
    run: RunDir,
    world: World,
    on_event: OnEvent | None = None,
    *,
    model: nn.Module | None = None,
    pulse: Heartbeat | None = None,
    began: float | None = None,
) -> Result:
    """Train ``recipe`` on ``data`` into ``run``; go on from its newest checkpoint if it has one.

    model: stands in for the recipe's
    pulse: what a supervisor reads; without one, several ranks watch themselves
    began: when the time of its budget did, on CLOCK_MONOTONIC; now, if left out
    Raises BudgetSpent (exit code 6) if it ends, with everything saved, before it comes up to ``budget.until``, or
    before its last step because ``budget.cost_usd`` is spent, or if there was nothing left to spend when it went on;
    Stopped (75) after a signal, STOP, ``eighteen stop`` or a cloud's notice with everything saved; Diverged (5) after
    three non-finite losses in a row.
    """
    this = job(recipe, data, run, world)
    pulse = pulse or Heartbeat(hang_s=recipe.train.hang_s, is_alone=world.size > 1)
    with pulse, dist.connected(world, this.device), torch_settings(this), StopSignals() as signals:
        state = start_or_resume(this, model, time.monotonic() if began is None else began)
        require_budget(this, state)
        room = Room(this, state)
        pace = Pace(this, state, room)
        told = [*tuned(this, state), *compile_ahead(this, state, pulse), *pace.begin(pulse)]
        ending = finished(this, state)  # already so where it was killed after its last checkpoint, before it could tell
        with (
            train_loader(this, state) as loader,
            Reporter(this, state, loader, pulse, on_event) as report,
            watchdog(this, pulse),
        ):
            report.tell([*told, *room.told])
            room.warn, fixing = report.warn, Fixing(this, loader, room)
            for now, batch in () if ending else patiently(loader, report, pulse):
                is_logged, asks = report.is_logged(now), report.asks(now, signals.requested, signals.take_save())
                asks = (*asks, pace.asks(), pace.is_spent(now), report.is_taken)
                outcome = room.step(batch, now, count_hits=is_logged, asks=asks)
                report.stepped(now, outcome)
                pace.stepped(now)
                if epoch := state.plan.ends_epoch(now):
                    is_due = evaluation_due(this, state, now, epoch, report)
                    found = validate(this, state, now, report.tolerance, pulse) if is_due else None
                    report.epoch_ended(now, epoch, found)
                    pace.evaluated(now, found)
                    report.tell(fixing.epoch_ended(now.number + 1))
                ending = why_end(this, state, report)
                if ending or checkpoint_due(this, state, now) or report.save_agreed or report.is_best:
                    report.save()
                if ending:
                    break
                if report.revision_agreed or (world.size == 1 and pace.is_due):
                    report.revised(pace.revise(now.number + 1))
                    loader.replan(state.plan)
            assert ending is not None  # the last step ends the run
            if recipe.budget.until and ending in ("done", "patience"):
                ending = BudgetSpent.__name__
            last = report.ended(ending)
    if ending == "stopped":
        raise stopped(run)
    if ending == BudgetSpent.__name__:
        raise spent(run, recipe, last)
    if ending == "cost":
        raise cut_short(this, state, last)
    return Result(
        run.path,
        state.step,
        best_top1=state.best_top1,
        seconds=state.seconds,
        cost_usd=recipe.budget.cost(state.clock.seconds),
        energy_j=state.clock.joules,
        **last._asdict(),
    )


def start_or_resume(this: Job, model: nn.Module | None, began: float) -> State:
    """Step 0, or where the run's newest checkpoint stands; its clock goes on from ``began``."""
    goes_on = bool(checkpoint.committed(this.run))
    energy = Energy(dist.gpus_of(this.world, this.device)) if this.world.is_first else None
    state = states.start(this, model, with_init=not goes_on)
    state.clock = clocks.resumed(this.run.clock, began=began, energy=energy)
    if not goes_on:
        return state
    saved = checkpoint.newest(this.run)
    if saved.card.classes != this.data.classes:
        got, hint = f"a dataset of {len(this.data.classes)} other classes", "the dataset named in command.txt"
        raise UsageError(f"resume {this.run.path}", got=got, need="the dataset it was trained on", hint=hint)
    return states.resume(this, state, saved)


def require_budget(this: Job, state: State) -> None:
    """BudgetSpent if commands before this one have left no time or money for what is still to be trained."""
    budget, spent_s = this.recipe.budget, state.clock.before_s
    if finished(this, state) is None and spent_s >= min(budget.most_s, budget.seconds or math.inf):
        raise gone(this.run.path, budget, spent_s, tried=f"resume {this.run.path}", reached=f"step {state.step:,}")


def tuned(this: Job, state: State) -> list[Told]:
    """What was found for this run before its first step, if it was tuned."""
    found = this.run.read_tuned() if state.step == 0 else None
    return [("tuned", found["found"])] if found else []


def train_loader(this: Job, state: State) -> TrainLoader:
    recipe, split = this.recipe, this.data.splits["train"]
    return TrainLoader(
        split,
        state.plan,
        this.order,
        this.world,
        augment=recipe.augment,
        device=this.device,
        channels=this.channels,
        rendition=recipe.data.rendition,
        kept=recipe.data.keep,
        num_threads=recipe.data.threads or None,
        prefetch=recipe.data.prefetch,
        patience_s=PATIENCE_S,
        start=state.step,
    )


def patiently(loader: TrainLoader, report: Reporter, pulse: Heartbeat) -> Iterator[tuple[Step, Batch]]:
    """The loader's batches. Where one is late the run says what it waits for, and waits on."""
    while True:
        pulse.doing("data")
        try:
            step, batch = next(loader)
        except StopIteration:
            return
        except Stalled as late:
            report.warn(f"{late.tried}: {late.got}")
        else:
            pulse.doing("step", phase=step.phase, step=step.number)
            yield step, batch


def evaluation_due(this: Job, state: State, now: Step, epoch: int, report: Reporter) -> bool:
    """Whether the epoch that ends with this step is one that is evaluated; the last one always is, others not if the
    run has to end here.
    """
    is_last = now.number == state.plan.num_steps - 1
    if this.recipe.budget.cost_usd:
        report.flush()  # what this step has told decides, too
    return "val" in this.data.splits and (is_last or (epoch % state.every == 0 and not report.is_spent))


def validate(this: Job, state: State, now: Step, on_bad: OnBad, pulse: Heartbeat) -> Evaluation:
    """Evaluate, as this step's phase says, what prediction would use: moving averages if there are any, the mean of the
    ranks' statistics. Test-time augmentation, which takes several times as long, only after the last step.
    """
    settings = this.recipe.eval_in(now.row)
    if now.number < state.plan.num_steps - 1:
        settings = settings.model_copy(update={"tta": "none"})
    with states.averaged_statistics(this, state), states.averaged_weights(state):
        pulse.doing("recalibrate")
        recalibrate(this, state)
        found = evaluate(
            state.model,
            this.data.splits["val"],
            state.card,
            settings,
            this.world,
            device=this.device,
            dtype=this.dtype,
            on_bad=on_bad,
            watched=partial(pulse.over, kind="evaluate", phase=-1 if settings.tta != "none" else now.phase),
        )
    pulse.doing("tell")
    return found


def checkpoint_due(this: Job, state: State, now: Step) -> bool:
    """Whether a phase ends here, or an epoch where the recipe says so."""
    following = now.number + 1
    ends_phase = following == state.plan.num_steps or state.plan.at(following).phase != now.phase
    return ends_phase or (this.recipe.train.checkpoint == "epoch" and state.plan.ends_epoch(now) is not None)


def why_end(this: Job, state: State, report: Reporter) -> str | None:
    """Why the run ends after this step, or None if it goes on. Raises Diverged: there is nothing worth saving."""
    if report.diverged_at is not None:
        report.wait_for_checkpoint()
        good = checkpoint.committed(this.run)
        last_good = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
        got, hint = f"{MAX_STREAK} losses in a row that are not finite", f"a lower learning rate; {last_good}"
        raise Diverged(f"train step {report.diverged_at}", got=got, need="a finite loss", hint=hint)
    return finished(this, state) or ("cost" if report.is_spent else "stopped" if report.stop_agreed else None)


def finished(this: Job, state: State) -> str | None:
    """Why there is nothing left to train, or None if there is."""
    if state.is_reached:
        return "until"
    if state.step >= state.plan.num_steps:
        return "done"
    return "patience" if 0 < this.recipe.train.patience <= state.evals_without_gain else None


@contextmanager
def torch_settings(this: Job) -> Iterator[None]:
    """What torch is told for the time of a run, and its random state afterwards as it was before."""
    deterministic = this.recipe.train.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
    )
    if this.device.type == "cpu":
        keep_freed_memory()
    if this.num_threads:
        torch.set_num_threads(this.num_threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_float32_matmul_precision("highest" if deterministic else "high")
    try:
        with torch.random.fork_rng(devices=[this.device] if this.device.type == "cuda" else []):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        torch.set_float32_matmul_precision(before[2])
        torch.set_num_threads(before[3])


def stopped(run: RunDir) -> Stopped:
    need, hint = "--resume to go on", f"eighteen train --resume {run.path}"
    return Stopped("train to the end", got="a request to stop", need=need, hint=hint)


def spent(run: RunDir, recipe: Recipe, last: Scores) -> BudgetSpent:
    goals = " and ".join(f"{name} {share:.2%}" for name, share in recipe.budget.until.items())
    got = " and ".join(f"{name} {getattr(last, name) or 0:.2%}" for name in recipe.budget.until)
    hint = f"more time, or --init {run.path} to go on from its weights"
    return BudgetSpent(f"train until {goals}", got=got, need="that, before the recipe or its time ends", hint=hint)


def cut_short(this: Job, state: State, last: Scores) -> BudgetSpent:
    tried, reached = f"train {state.plan.num_steps:,} steps", f"step {state.step:,}"
    reached += "" if last.top1 is None else f" with top1 {last.top1:.2%}"
    return gone(this.run.path, this.recipe.budget, state.clock.seconds, tried=tried, reached=reached)
