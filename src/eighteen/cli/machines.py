"""The machines of a launch: measured before it, looked at while it lasts, left alone after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from eighteen.base.errors import MachineError, UsageError
from eighteen.cli.app import app, console, says_yes, to_stderr, warn


@app.command
def preflight(*, hosts: str, python: str = "python3", gpus: int | None = None, json: Path | None = None) -> None:
    """Find out in half a minute whether machines can train together; if not, which is at fault, and what to do there.

    Names, clocks, disks, drivers, ports, links and an all-reduce; the program is sent to machines that lack it.

    Args:
        hosts: Machines, e.g. node1,user@node2:2222, or a file with one a line. Ranks meet at the first.
        python: Of the machines, 3.11 or newer.
        gpus: Ranks on each machine, one a GPU; all its GPUs if left out.
        json: A file to write all that was measured to.
    """
    from eighteen.base.files import write_json
    from eighteen.cloud import launcher
    from eighteen.cloud import preflight as verdicts
    from eighteen.results.feeding import table

    if gpus is not None and gpus < 1:
        raise UsageError("--gpus", got=str(gpus), need="1 or more", hint="--gpus 8")
    report = launcher.preflight_of(hosts, python=python, ranks=gpus or 0, say=to_stderr)
    console().print(table(verdicts.COLUMNS, [verdicts.row(report, host) for host in report.looks]))
    if json is not None:
        write_json(json, verdicts.facts(report))
        print(f"wrote {json}")
    for line in verdicts.warnings(report):
        to_stderr(line)
    verdicts.require_fit(report)
    print(f"fit: {verdicts.summary(report)}")


@app.command
def status(run: Path) -> None:
    """Say what the machines of a launch do at this moment.

    Args:
        run: A run that eighteen launch began.
    """
    from eighteen.cloud import cluster, driver, launcher, managed
    from eighteen.cloud.limits import described, strike

    if found := cluster.opened(run):
        print(cluster.state(*found))
        return
    if job := managed.opened(run):
        print(managed.state(job))
        return
    folder, wanted = launcher.opened(run)
    for host, seen in driver.look(wanted).items():
        if seen is None:
            print(f"{host}: silent")
            continue
        state = "training" if seen.is_running else "not begun" if not seen.has_begun else f"ended with {seen.exit}"
        free = f"{seen.free_bytes / 1e9:,.0f} GB free"
        ends = f", {'powers off' if wanted.power_off else 'ends it'} at {strike(*seen.strikes)}" if seen.strikes else ""
        print(f"{host}: {state}, Python {seen.python}, {seen.gpus} GPUs, {free}{ends}")
    if wanted.limits:
        print(described(wanted.limits, began=wanted.began, power_off=wanted.power_off))
    print(f"attempt {wanted.attempt}, on {', '.join(wanted.at_work)}; {folder.path}")


@app.command
def logs(run: Path, *, host: str | None = None) -> None:
    """Print the end of what training printed on the machines of a launch.

    Args:
        run: A run that eighteen launch began.
        host: Of this machine only.
    """
    from eighteen.base.rundir import RunDir
    from eighteen.cloud import cluster, driver, launcher, managed

    found, job = cluster.opened(run), managed.opened(run)
    if found or job:
        if host is not None:
            need, hint = "nothing: a job has one log for all", f"eighteen logs {run}"
            raise UsageError("--host", got=repr(host), need=need, hint=hint)
        print(managed.log(job) if job else cluster.log(RunDir(run)))
        return
    _, wanted = launcher.opened(run)
    there = driver.remotes(wanted)
    if host is not None and host not in there:
        raise UsageError(
            "--host", got=repr(host), need=f"one of {', '.join(there)}", hint=f"--host {next(iter(there))}"
        )
    for name in [host] if host else there:
        print(f"== {name}")
        print(there[name].ask("log", driver.asked(wanted))["said"])


@app.command
def down(
    run: Path | None = None,
    *,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """End what a launch has begun and leave nothing of it: rented machines are given back; on others its folder is
    deleted, while program, packages and datasets stay.

    Args:
        run: A run that eighteen launch began.
        all_: Give back all that any launch has rented, instead: what SkyPilot here knows of, and machines of AWS that
            carry our tag, in all regions.
        yes: Also those of which SkyPilot here does not know, without being asked.
    """
    from eighteen.cloud import cluster, driver, launcher, managed, rent

    if yes and not all_:
        raise UsageError("down --yes", got="no --all", need="both, or neither", hint="leave out --yes")
    if (run is None) != all_:
        raise UsageError("down", got="a run and --all" if all_ else "no run", need="one of them", hint="ls runs")
    if run is None:
        _down_all(is_agreed=yes)
        return
    if found := cluster.opened(run):
        print(cluster.down(*found))
        return
    if job := managed.opened(run):
        print(managed.down(job))
        return
    folder, wanted = launcher.opened(run)
    driver.keep_end(folder, "down")  # first, as whoever follows it would begin again
    if rent.known(folder) is not None:
        rent.give_back(folder, print)
        return
    for host, why in driver.on_all(wanted, "forget").items():
        print(f"{host}: {why or 'nothing is left'}")


def _down_all(*, is_agreed: bool) -> None:
    """Raises MachineError, after all else was given back, for what could not be asked."""
    from eighteen.cloud import aws, managed, rent, sky

    given, found, failures = list[str](), list[aws.Machine](), list[MachineError]()
    for sweep in (managed.sweep, rent.sweep):  # jobs first, as they would rent anew what is ended below
        try:
            given += sweep(to_stderr)
        except MachineError as error:
            warn(f"{error.tried}: {error.got}")
            failures.append(error)
    print("\n".join(given), end="\n" * bool(given))
    try:
        tagged, silent = aws.tagged(sky.LABEL)
        for region, why in silent.items():
            need, hint = "an answer, as machines may be there", f"the console of AWS, in {region}"
            warn(f"{region} of AWS: {why}")
            failures.append(MachineError(f"look for machines in {region}", got=why, need=need, hint=hint))
        found = [one for one in tagged if one.value not in given]  # which go in a moment
        lines = [f"{one} is ours by its tag, and SkyPilot here does not know of it" for one in found]
        if found and says_yes("end machines", lines, "end them?", is_agreed=is_agreed):
            aws.end(found)
            print("\n".join(map(str, found)))
    except aws.NoAccount as error:
        warn(f"{error.tried}: {error.got}; machines of which SkyPilot does not know were not looked for")
    except MachineError as error:
        failures.append(error)
    if not (given or found or failures):
        print("nothing is rented")
    if failures:
        raise failures[0]
