import pytest

from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.errors import DataError, UsageError


def make(parent, name="flowers", **more):
    return rundir.create(
        parent, name, recipe=recipes.load("fast"), command="eighteen train", environment={"python": "3"}, **more
    )


def test_runs_of_the_same_second_are_two_runs(tmp_path):
    runs = [make(tmp_path) for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert recipes.load(str(runs[0].recipe)) == recipes.load("fast")
    assert runs[0].read_environment() == {"python": "3"}


def test_a_run_is_made_in_a_folder_that_is_there_but_only_once(tmp_path):
    folder = tmp_path / "flowers-1"
    (folder / "launch").mkdir(parents=True)
    (folder / "recipe.toml").touch()  # it was killed while it was made
    assert make(tmp_path, into=folder).path == folder
    assert recipes.load(str(folder / "recipe.toml")) == recipes.load("fast")
    with pytest.raises(UsageError, match=f"got one there, need none.*\\n.*train --resume {folder}"):
        make(tmp_path, into=folder)


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "a/b"])
def test_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="need letters, digits"):
        make(tmp_path, name)


def test_opening_what_is_no_run_says_so(tmp_path):
    with pytest.raises(DataError, match=r"no recipe\.toml there"):
        rundir.open(tmp_path)


def test_heartbeat_is_replaced_whole(tmp_path):
    run = make(tmp_path)
    run.heartbeat(state="training", step=1)
    run.heartbeat(state="done", step=2)
    assert run.read_status()["state"] == "done"
    assert not list(run.path.glob(".status*"))


def begin(parent, *ends, name="flowers", recipe="fast", digest="d"):
    """A run of ``name`` that began as often as it has ends; None is no end."""
    chosen = recipes.load(recipe, side=32)
    run = rundir.create(parent, name, recipe=chosen, command="x\n/data.e18", environment={"dataset_digest": digest})
    for reason in ends:
        run.event("start")
        if reason:
            run.event("end", reason=reason, step=1)
    return run


def unfinished(parent, name="flowers", recipe="fast", dataset="/data.e18", digest="d"):
    chosen = recipes.load(recipe, side=32)
    return list(rundir.unfinished(parent, name, recipe=chosen, place=dataset, digest=digest))


@pytest.mark.parametrize(
    ("ends", "goes_on"),
    [
        ((), True),
        ((None,), True),
        (("stopped",), True),
        (("PeerLost",), True),
        (("MachineError",), True),
        (("KeyboardInterrupt",), True),
        (("OSError",), True),
        (("done",), False),
        (("patience",), False),
        (("Diverged",), False),
        (("stopped", "done"), False),
        (("Diverged", None), True),
    ],
)
def test_a_run_that_was_stopped_or_killed_or_failed_by_its_machine_is_unfinished(tmp_path, ends, goes_on):
    run = begin(tmp_path, *ends)
    assert unfinished(tmp_path) == ([run] if goes_on else [])


@pytest.mark.parametrize("other", [{"recipe": "small"}, {"name": "flower"}, {"dataset": "/x.e18"}, {"digest": "e"}])
def test_a_run_of_another_recipe_name_or_dataset_is_another(tmp_path, other):
    begin(tmp_path, "stopped")
    assert unfinished(tmp_path, **other) == []


def test_a_tuned_run_is_one_of_the_recipe_that_it_was_tuned_from(tmp_path):
    asked, facts = recipes.load("fast"), {"place": "/data.e18", "digest": "d"}
    tuned = recipes.load("fast", changes=["phases.0.micro_batch=64"])
    about = {"command": "x\n/data.e18", "environment": {"dataset_digest": "d"}}
    record = {"v": 1, "asked": {"recipe": recipes.dump(asked), "tuning": "parts"}, "found": {}}
    run = rundir.create(tmp_path, "flowers", recipe=tuned, **about, tuned=record)
    found = {
        tuning: [*rundir.unfinished(tmp_path, "flowers", recipe=recipe, **facts, tuning=tuning)]
        for recipe, tuning in ((asked, "parts"), (asked, "batch"), (asked, None), (tuned, None))
    }
    assert found == {"parts": [run], "batch": [], None: []}
    run.tuned.write_text("[]")
    assert unfinished(tmp_path) == []


def test_a_run_that_was_killed_while_it_was_made_is_left_alone(tmp_path):
    for file in ("recipe.toml", "command.txt", "env.json"):
        (begin(tmp_path).path / file).unlink()
    (begin(tmp_path).path / "env.json").write_text("{")
    assert unfinished(tmp_path) == []


def test_the_newest_unfinished_run_comes_first(tmp_path):
    runs = [begin(tmp_path, "stopped") for _ in range(3)]
    assert unfinished(tmp_path) == runs[::-1]
