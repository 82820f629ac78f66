import pytest

from eighteen.base import recipe as recipes
from eighteen.base import rundir
from eighteen.base.errors import DataError, UsageError


def make(parent, name="flowers"):
    return rundir.create(
        parent, name, recipe=recipes.load("fast"), command="eighteen train", environment={"python": "3"}
    )


def test_runs_of_the_same_second_are_two_runs(tmp_path):
    runs = [make(tmp_path) for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert recipes.load(str(runs[0].recipe)) == recipes.load("fast")
    assert runs[0].read_environment() == {"python": "3"}


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
