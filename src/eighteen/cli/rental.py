"""What is agreed to before machines are rented: which, where, until when and for how much."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eighteen.base.errors import UsageError
from eighteen.cli.app import says_yes, to_stderr, warn
from eighteen.cli.planned import planned

if TYPE_CHECKING:
    from eighteen.advice.offers import Offer
    from eighteen.advice.plan import Plan
    from eighteen.cli.launch_options import Ending, Renting, Training
    from eighteen.cloud.sky import Rental

COUNTS = (1, 2, 4, 8, 16)  # of machines, where the planner may choose


@dataclass(frozen=True)
class Asked:
    """As it was typed. machines: None: as the planner chooses, by time or cost"""

    cloud: str
    machines: int | None
    renting: Renting
    training: Training
    ending: Ending

    @property
    def words(self) -> list[str]:
        """By these a launch is known again."""
        renting = self.renting
        named = {"--cloud": self.cloud, "--gpu": renting.gpu, "--machines": self.machines, "--region": renting.region}
        words = [word for flag, value in named.items() if value is not None for word in (flag, str(value))]
        flags = {"--spot": renting.spot, "--cheapest": renting.cheapest, "--managed": renting.managed}
        return [*words, *(flag for flag, is_given in flags.items() if is_given)]


def check(asked: Asked) -> None:
    """UsageError for what cannot be asked, before anybody is."""
    renting, training, ending = asked.renting, asked.training, asked.ending
    if asked.machines is not None and asked.machines < 1:
        raise UsageError("--machines", got=f"{asked.machines}", need="1 or more", hint="--machines 2")
    if ending.max_hours is not None and not 0 < ending.max_hours <= 24 * 365:
        raise UsageError("--max-hours", got=f"{ending.max_hours:g}", need="more than 0", hint="--max-hours 8")
    if (renting.gpu is None or asked.machines is None) and training.time is None and training.cost is None:
        got = "neither --gpu and --machines nor a limit to choose them by"
        need, hint = "which machines, or --time or --cost", "--gpu H100:8 --machines 2, or --time 20m"
        raise UsageError("rent machines", got=got, need=need, hint=hint)
    if renting.gpu is None and training.price_usd_h is not None:
        need, hint = "the machines that this is the price of", "--gpu H100:8"
        raise UsageError("rent machines", got="--price-usd-h without --gpu", need=need, hint=hint)
    if renting.managed and renting.cheapest:
        need = "one of them: a managed job is rented, and rented again, wherever SkyPilot finds it cheapest"
        raise UsageError("rent machines", got="both --managed and --cheapest", need=need, hint="--region, or neither")


def proposed(asked: Asked, data: str, *, python: str, recipe: dict[str, Any]) -> tuple[Rental, list[str]]:
    """What would be rented, without its name yet, and the lines that tell what it costs.

    recipe: what ``planning.make`` takes of it
    """
    from tempfile import TemporaryDirectory

    from eighteen.advice.offers import offers
    from eighteen.base import budget as budgets
    from eighteen.cloud import sky
    from eighteen.cloud.market import quoted
    from eighteen.cloud.sky import Wish
    from eighteen.data import dataset as datasets
    from eighteen.data.places import is_url

    renting, training, ending = asked.renting, asked.training, asked.ending
    now = datetime.now(UTC)
    known = [one for one in offers(renting.prices) if one.cloud == asked.cloud and _is_gpu(one, renting.gpu)]
    regions = [renting.region] if renting.region else []
    is_priced = training.price_usd_h is not None
    found = quoted(known, regions, now=now, warn=warn, flag="--region") if known and not is_priced else []
    place = {"is_spot": renting.spot, "region": renting.region or "", "is_cheapest": renting.cheapest}
    wish = Wish(asked.cloud, renting.gpu or "", asked.machines or 0, **place, is_managed=renting.managed)
    made, plan = None, None
    is_open = renting.gpu is None or asked.machines is None
    if is_open or renting.measured:
        if is_url(data):
            need, hint = "a dataset here to plan with", "--gpu H100:8 --machines 2, without --measured"
            raise UsageError("plan a launch", got="a URL", need=need, hint=hint)
        counts = (asked.machines,) if asked.machines else COUNTS
        offered, files = [one.offer for one in found], renting.measured
        how = {"offered": offered, "counts": counts, "files": files, "today": now.date()}
        with TemporaryDirectory() as folder:
            made = planned(datasets.open(data), runs_dir=Path(folder), **how, **recipe)
        most = {"time": training.time, "cost": training.cost} if is_open else {}
        plan = chosen(made.plans, is_spot=renting.spot, **most)
        offer = next(one.offer for one in found if one.offer.name == plan.where)
        is_cheapest = (renting.cheapest or is_open) and not renting.managed
        wish = replace(wish, gpu=f"{offer.gpu}:{offer.gpus}", machines=plan.machines, is_cheapest=is_cheapest)
    if training.price_usd_h is not None:
        places = [sky.by_hand(training.price_usd_h, wish)]
    else:
        places = sky.asked_in(sky.places(found, wish), wish)
    num_bytes = 0 if is_url(data) else sum(one.stat().st_size for one in datasets.open(data).path.rglob("*"))
    setup = sky.setup(python, has_tmux=not renting.managed)
    rental = sky.Rental("", wish, places, ending.max_hours or sky.HOURS, sky.disk_gb(num_bytes), setup)
    if ending.max_cost is not None:
        rental = replace(rental, hours=min(rental.hours, budgets.dollars(ending.max_cost) / rental.usd_h))
    lines = sky.estimate(rental, plan, epochs=made.task.schedule.epochs if made else 1.0)
    kinds = {one.instance for one in places}
    rows = [one.offer for one in found if one.offer.instance in kinds]
    stale = sorted({f"{one.date}" for one in rows if one.is_stale(now.date())})
    if stale:
        lines.append(f"prices of {', '.join(stale)} are old: AWS tells those of today to whoever has its credentials")
    return rental, lines


def agreed(
    asked: Asked,
    data: str,
    launch: dict[str, Any],
    training: dict[str, Any],
    *,
    runs_dir: Path | None,
    is_shown: bool,
) -> Rental | None:
    """What is to be rented, or is already for the same command; None if nobody agreed, or it is only shown.

    launch: what ``launcher.wanted`` takes      training: what ``planning.make`` takes of a recipe
    runs_dir: where such a launch may lie; None: it is a new one
    """
    from eighteen.cloud import keys, launcher, rent, sky

    wanted, _ = launcher.wanted(data, **launch)
    if runs_dir is not None and (found := launcher.earlier(wanted, recipe=launch["recipe"], runs_dir=runs_dir)):
        before = rent.known(found[0])
        if before is not None and before.state in ("renting", "rented"):
            to_stderr(f"going on with {found[0].path}, for which {before.cluster} was rented")
            return before
    rental, lines = proposed(asked, data, python=wanted.python, recipe=training)
    if is_shown:
        rental, file = replace(rental, name=wanted.name), Path("rent.yaml")
        if asked.renting.managed:
            words, task, ends = sky.job_words(rental, file), sky.job(rental, wanted, Path("job.tar")), []
        else:
            settings = Path("ssh", keys.SETTINGS) if keys.can_be_sent(asked.cloud) else None
            words, task = sky.rent_words(rental, file, settings), sky.task(rental)
            ends = [f"# {settings} gives the machines a key by which ssh knows them"] if settings else []
            ends += [shlex.join(sky.return_words(rental.cluster))]
        print("\n".join([*lines, shlex.join(words), sky.text(task), *ends]))
        return None
    rent.require_sky()
    if not says_yes("rent machines", lines, "rent them?", is_agreed=asked.renting.yes):
        to_stderr("nothing was rented")
        return None
    return rental


def chosen(plans: Sequence[Plan], *, is_spot: bool = False, time: str | None = None, cost: str | None = None) -> Plan:
    """The cheapest that keeps to the time, or the fastest that keeps to the cost; UsageError if there is none."""
    from eighteen.advice.rankings import cheapest_first, fastest_first, within
    from eighteen.base import budget as budgets

    to_rent = [one for one in plans if one.usd and one.is_spot == is_spot]
    seconds = None if time is None else budgets.seconds(time)
    usd = None if cost is None else budgets.dollars(cost)
    kept = within(to_rent, seconds=seconds, usd=usd)
    if not kept:
        got = f"none of {len(to_rent)} plans that keeps to that"
        need, hint = "one to rent", "eighteen plan, to see what they take; a longer --time, or a higher --cost"
        raise UsageError("choose machines", got=got, need=need, hint=hint)
    ranked = cheapest_first(kept) if usd is None or seconds is not None else fastest_first(kept)
    return ranked[0]


def _is_gpu(one: Offer, gpu: str | None) -> bool:
    return gpu in (None, one.gpu, f"{one.gpu}:{one.gpus}")
