"""What is found before the first step: parts that fit, the same on all ranks, within a limit of time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from small_runs import BATCH, happened, model, pictures, recipe, train

import eighteen
from eighteen import cli
from eighteen.advice import alone, search, tune
from eighteen.advice.search import Tuned, applied, halves, smallest_near
from eighteen.base import recipe as recipes
from eighteen.base.errors import MachineError, Stopped, UsageError
from eighteen.base.world import World


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What is known between runs, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "eighteen" / "tuned.json"


@pytest.fixture(autouse=True)
def time_enough(monkeypatch):
    """2 % of these runs are no time at all."""
    monkeypatch.setattr(search, "SHARE", 1e9)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """104 + 40 raw pictures of 16 x 16."""
    sets = {"train": pictures(104, seed=1), "val": pictures(40, seed=2)}
    return eighteen.pack(sets, tmp_path_factory.mktemp("data") / "quarters.e18", procs=1)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """1,200 of them, without a split val."""
    return eighteen.pack(pictures(1200, seed=1), tmp_path_factory.mktemp("data") / "many.e18", val=0.0, procs=1)


def cramped(*rooms: int, net: str = "normed") -> tuple[str, ...]:
    return model("cramped"), f"model.args={{room={[*rooms]}, net='{net}'}}"


def found(data, *changes: str, **options) -> Tuned:
    return tune.tune(recipe(*changes), data, World(), **options)


@pytest.mark.parametrize(
    ("count", "parts"),
    [(1, [1]), (2, [2]), (3, [2, 3]), (26, [2, 4, 7, 13, 26]), (64, [2, 4, 8, 16, 32, 64])],
)
def test_parts_are_a_share_and_its_halves(count, parts):
    assert halves(count) == parts


def test_the_smallest_that_is_nearly_as_fast_as_the_best_is_taken():
    assert smallest_near({8: 97.0, 16: 98.5, 32: 100.0, 64: 99.0}, 0.02) == 16
    assert smallest_near({8: 0.0, 16: 0.0}, 0.02) == 8


def test_a_tuned_run_has_what_was_found_in_its_recipe_and_tells_it(data, tmp_path):
    run = train(data, tmp_path, *cramped(13), tune="auto").run
    (told,) = happened(run, "tuned")
    assert told["micro_batch"] == [13], "26 do not fit, and statistics over 7 would be others"
    assert (told["threads"], told["batch"], told["cached"]) == (None, None, False)
    assert told["left"] == ["data.threads stays as it is: decoded pixels are kept in memory"]
    assert [(one["micro_batch"], one["images_per_s"] > 0) for one in told["measured"]] == [(13, True), (26, False)]
    kept = recipes.load(str(run / "recipe.toml"))
    assert kept == applied(recipe(*cramped(13)), Tuned(None, (13,), None))
    assert not (run / "room.json").exists()
    assert "  tuned in " in (run / "log.txt").read_text()


def test_a_run_that_nobody_tunes_is_left_alone(data, tmp_path):
    run = train(data, tmp_path).run
    assert not happened(run, "tuned")
    assert not (run / "tuned.json").exists()
    assert recipes.load(str(run / "recipe.toml")).micro_batches == (0,)


@pytest.mark.parametrize(
    "change",
    ["train.micro_batch=6", "train.ghost_batch=6", "phases.0.micro_batch=0", "train.exact=true"],
)
def test_what_the_recipe_says_itself_stays(data, change):
    tuned = found(data, model("grouped"), change, "data.threads=1", "train.virtual_workers=2")
    assert (tuned.threads, tuned.micro_batches, tuned.batch, tuned.measured) == (None, (None,), None, ())


def test_batch_norm_has_no_part_below_32_pictures_for_the_sake_of_speed(data, many):
    (part,) = found(many, model("normed"), "phases.0.batch=128").micro_batches
    assert part in (32, 64, 128)
    tried = {one.micro_batch for one in found(many, model("grouped"), "phases.0.batch=128").measured}
    assert tried == {4, 8, 16, 32, 64, 128}
    assert {one.micro_batch for one in found(data, model("normed")).measured} == {BATCH}


def test_phases_that_are_alike_are_tried_once_and_each_has_its_own_part(data):
    rows = [{"epochs": 2, "size": size, "batch": 26} for size in (16, 24, 16)]
    text = f"phases=[{', '.join('{' + ', '.join(f'{k} = {v}' for k, v in row.items()) + '}' for row in rows)}]"
    tuned = found(data, *cramped(7), text)
    assert tuned.micro_batches == (7, 7, 7)
    assert sorted({one.size for one in tuned.measured}) == [16, 24]


def test_what_was_found_is_known_to_the_next_run(data, cache):
    first = found(data, *cramped(13))
    again = found(data, *cramped(13))
    assert (again.is_cached, again.micro_batches, again.measured) == (True, first.micro_batches, first.measured)
    assert not found(data, *cramped(13), "phases.0.batch=24").is_cached
    assert found(data, *cramped(13), "train.seed=3", "train.log_every=7").is_cached
    kept = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: {"threads": "many"} for key in kept}))
    assert not found(data, *cramped(13)).is_cached
    cache.write_text("{")
    assert not found(data, *cramped(13)).is_cached


def test_without_time_everything_stays_and_nothing_is_kept(data, cache):
    tuned = found(data, model("normed"), "data.keep='never'", limit_s=0.0)
    assert (tuned.threads, tuned.micro_batches) == (None, (None,))
    assert tuned.left[0] == "phases.0.micro_batch: no time was left to try any"
    assert not cache.exists()


def test_a_model_that_does_not_fit_is_refused_with_what_to_do(data, tmp_path):
    with pytest.raises(
        MachineError, match=r"train with 2 pictures of 16 px at a time: got .* bytes that a step may take"
    ):
        train(data, tmp_path, *cramped(1), tune="auto")
    assert not [*tmp_path.glob("runs/*")]


def test_no_step_is_taken_that_by_those_before_it_would_not_fit(many, monkeypatch):
    """The kernel would end the process. What a step of 32 pictures took says what one of 128 would."""
    taken = []
    step = alone.Alone.step

    def counted(self, row, count):
        taken.append(count)
        step(self, row, count)

    monkeypatch.setattr(alone.Alone, "step", counted)
    monkeypatch.setattr(alone, "free_bytes", lambda this: 300 * 2**20)
    large = ("phases.0.size=128", "phases.0.batch=256", "data.prefetch=1")
    (part,) = found(many, model("grouped"), *large).micro_batches
    assert part is not None
    assert part <= max(taken) < 256
    assert taken[0] == 2
    assert all(after <= 4 * before for before, after in pairwise(taken))


def test_an_evaluation_that_does_not_fit_is_refused_with_one_that_does(data, monkeypatch):
    monkeypatch.setattr(alone, "free_bytes", lambda this: 24 * 2**20)
    with pytest.raises(
        MachineError, match=r"evaluate 64 pictures of 256 x 256 px at a time.*\n.*--set eval\.batch=\d+"
    ):
        found(data, model("grouped"), "eval.size=256", "data.prefetch=1")


def test_where_the_system_tells_nothing_of_memory_all_stays(data, monkeypatch):
    monkeypatch.setattr(alone, "forget_peak_memory", lambda: None)
    tuned = found(data, model("grouped"))
    assert tuned.left == ("all stays as it is: this system does not tell how much memory a step takes",)
    assert (tuned.threads, tuned.micro_batches) == (None, (None,))


@pytest.mark.parametrize(("cpus", "tried"), [(3, [1, 2, 3]), (1, [])])
def test_threads_are_tried_with_the_step_where_pictures_are_decoded(data, monkeypatch, cpus, tried):
    monkeypatch.setattr(search, "num_cpus", lambda: cpus)
    tuned = found(data, model("grouped"), "data.keep='never'")
    assert [one.threads for one in tuned.measured if one.threads] == tried
    assert tuned.threads in (tried or [None])
    assert bool(tried) != ("data.threads stays as it is: a rank has one processor" in tuned.left)


def test_a_batch_that_is_found_brings_its_learning_rate(many, tmp_path):
    told = []
    run = train(many, tmp_path, model("grouped"), tune="auto", batch="auto", say=told.append).run
    (event,) = happened(run, "tuned")
    kept = recipes.load(str(run / "recipe.toml"))
    assert kept.phases[0].batch == event["batch"] in (32, 64, 128)
    assert event["batch"] in {one["batch"] for one in event["measured"]}
    for step in happened(run, "step")[:3]:
        epoch = step["step"] * event["batch"] / 1200
        assert step["batch"] == event["batch"]
        lr = 0.05 + 0.025 * epoch  # the recipe's, for a batch of 26; a phase has whole steps
        assert step["lr"] == pytest.approx(event["batch"] / BATCH * lr, rel=0.01)
    assert f"batches of {event['batch']} instead of 26: learning rates follow" in "\n".join(told)


def test_a_batch_is_only_found_by_tuning(data, tmp_path, capsys):
    with pytest.raises(UsageError, match="--batch auto: got --tune off"):
        train(data, tmp_path, batch="auto")
    assert cli.main(["train", str(data.path), "--batch", "some", "--tune", "auto"]) == 2
    assert cli.main(["train", "--resume", "runs/x", "--tune", "auto"]) == 2
    assert "got --tune" in capsys.readouterr().err


def test_the_same_command_goes_on_with_its_tuned_run_and_no_other(data, tmp_path, cache):
    options = {"on_event": lambda event: eighteen.STOP if event.get("step") == 9 else None}
    with pytest.raises(Stopped):
        train(data, tmp_path, *cramped(13), tune="auto", **options)
    cache.unlink()
    untuned = train(data, tmp_path, *cramped(13)).run
    again = train(data, tmp_path, *cramped(13), tune="auto").run
    assert again != untuned
    assert happened(again, "resume")
    assert len(happened(again, "tuned")) == 1
    assert not cache.exists(), "it was not tuned again"


def test_new_ranks_agree_before_the_run_s_own_are_started(data, tmp_path):
    run = train(data, tmp_path, *cramped(13, 4), tune="auto", procs=2).run
    (told,) = happened(run, "tuned")
    assert told["micro_batch"] == [4]
    assert not happened(run, "restart")
    long = recipe(*cramped(13, 4), "budget.seconds=2000")
    found = [tune.on_new_ranks(long, data, num_ranks=2, on_cpu=True, with_batch=False) for _ in range(2)]
    assert [one.is_cached for one in found] == [False, True]
    assert found[0].micro_batches == found[1].micro_batches == (4,)


def test_a_short_run_is_tuned_in_a_short_time(many, monkeypatch):
    """Of which the first measured steps tell; what is known to fit without any of it is taken all the same."""
    monkeypatch.setattr(search, "SHARE", 0.0)
    tuned = found(many, *cramped(13, net="grouped"), "data.keep='never'")
    assert (tuned.micro_batches, tuned.threads, tuned.measured) == ((13,), None, ())
    assert len(tuned.left) == 2


def test_what_new_ranks_cannot_do_is_said_as_by_one(data, tmp_path):
    with pytest.raises(MachineError, match="train with 2 pictures of 16 px at a time"):
        train(data, tmp_path, *cramped(13, 1), tune="auto", procs=2)


def agree(data, folder: Path, num_cases: int, seed: int) -> None:
    """1 to 4 ranks with any memory: none hangs, all find the same, and no step runs out of memory."""
    draw = random.Random(seed)
    cases = [[draw.choice([2, 3, 4, 6, 9, 13, 26]) for _ in range(draw.randint(1, 4))] for _ in range(num_cases)]
    words = [str(Path(__file__).with_name("small_tuning.py")), str(data.path), str(folder), json.dumps(cases)]
    subprocess.run([sys.executable, *words], check=True)
    for number, rooms in enumerate(cases):
        found = [json.loads((folder / f"{number}/found-{rank}.json").read_text()) for rank in range(len(rooms))]
        assert all(one == found[0] for one in found), (rooms, found)
        assert found[0][0] <= min(rooms), (rooms, found)
        (run,) = (folder / str(number)).glob("run-*")
        assert not (run / "room.json").exists(), rooms
        assert happened(run, "end")[0]["exit_code"] == 0


def test_ranks_with_any_memory_find_the_same(data, tmp_path):
    agree(data, tmp_path, 10, seed=18)


@pytest.mark.soak
def test_ranks_with_any_memory_find_the_same_a_hundred_times(data, tmp_path):
    agree(data, tmp_path, 100, seed=81)


def test_ranks_that_somebody_else_starts_tune_together(data, tmp_path):
    (tmp_path / "mine.toml").write_text(recipes.dump(recipe(*cramped(26, 6))))
    command = [sys.executable, "-m", "eighteen", "train", str(data.path), "--recipe", "mine.toml", "--tune", "auto"]
    own = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "EIGHTEEN_FILE_STORE": str(tmp_path / "store")}
    ranks = [
        subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | own | {"RANK": rank, "LOCAL_RANK": rank, "GLOO_SOCKET_IFNAME": "lo"}
        )
        for rank in ("0", "1")
    ]
    assert [process.wait() for process in ranks] == [0, 0]
    (run,) = (tmp_path / "runs").iterdir()
    assert happened(run, "tuned")[0]["micro_batch"] == [4]
    assert not (run / "room.json").exists()
