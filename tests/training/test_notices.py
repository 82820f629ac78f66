"""A cloud that takes its machine back: what its metadata server says is heard, told once, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from metadata_server import ACTION, MAINTENANCE, PREEMPTED, REBALANCE, MetadataServer
from small_runs import differing, happened, recipe, saved, train

import eighteen
from eighteen.base import notices, request, rundir
from eighteen.base import recipe as recipes
from eighteen.base.errors import Stopped
from eighteen.base.notices import Notice, Watch, cloud_here
from eighteen.base.rundir import RunDir
from eighteen.training import checkpoint
from eighteen.training.requests import Requests

TAKEN = '{"action": "terminate", "time": "2026-11-24T08:22:00Z"}'
LIKELY = '{"noticeTime": "2026-11-24T08:00:00Z"}'
LONG = ("phases.0.epochs=600", "optim.lr=[[0, 0.05], [600, 0.0]]", "train.log_every=100", "eval.every=1000")
LONG = (*LONG, "train.checkpoint='phase'")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(notices, "POLL_S", 0.01)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked
    with MetadataServer() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{server.address}/")
        monkeypatch.setenv("GCE_METADATA_HOST", server.address)
        yield server


@pytest.fixture
def watching(server):
    """Starts a watch of a cloud; ends it with the test."""
    started = []

    def watch(setting):
        started.append(Watch(setting))
        started[-1].start()
        return started[-1]

    yield watch
    for one in started:
        one.close()


def heard(watch):
    """Its news, as soon as there are any."""
    while not (news := list(watch.news())):
        time.sleep(0.001)
    return news


@pytest.mark.parametrize(
    ("vendor", "product", "cloud"),
    [
        ("Amazon EC2", "p5.48xlarge", "aws"),
        ("Google", "Google Compute Engine", "gcp"),
        ("LENOVO", "20XW", None),
        (None, None, None),
    ],
)
def test_a_machine_knows_its_cloud_by_its_firmware(tmp_path, vendor, product, cloud):
    folder = tmp_path / "sys/class/dmi/id"
    folder.mkdir(parents=True)
    if vendor:
        (folder / "sys_vendor").write_text(f"{vendor}\n")
        (folder / "product_name").write_text(f"{product}\n")
    assert cloud_here(tmp_path) == cloud


@pytest.mark.parametrize(
    ("cloud", "path", "text", "notice"),
    [
        ("aws", ACTION, TAKEN, Notice("aws", "terminate", "2026-11-24T08:22:00Z", goes=True)),
        ("aws", REBALANCE, LIKELY, Notice("aws", "rebalance", "2026-11-24T08:00:00Z", goes=False)),
        ("gcp", PREEMPTED, "TRUE", Notice("gcp", "preempted", None, goes=True)),
        (
            "gcp",
            MAINTENANCE,
            "TERMINATE_ON_HOST_MAINTENANCE\n",
            Notice("gcp", "TERMINATE_ON_HOST_MAINTENANCE", None, True),
        ),
        ("gcp", MAINTENANCE, "MIGRATE_ON_HOST_MAINTENANCE", Notice("gcp", "MIGRATE_ON_HOST_MAINTENANCE", None, False)),
    ],
)
def test_each_notice_is_told_once(server, watching, cloud, path, text, notice):
    server.answers |= {PREEMPTED: "FALSE", MAINTENANCE: "NONE"}
    watch = watching(cloud)
    server.wait_for(path)
    assert list(watch.news()) == []
    server.answers[path] = text
    assert heard(watch) == [notice]
    server.wait_for(path, 2)
    assert list(watch.news()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"time": "soon"}', "\x00" * 100_000])
def test_an_answer_that_is_no_notice_is_none(server, watching, text):
    watch = watching("aws")
    server.wait_for(REBALANCE)
    server.answers[ACTION] = text
    server.wait_for(ACTION, 3)
    server.answers[ACTION] = TAKEN
    assert [news.what for news in heard(watch)] == ["terminate"]


def test_a_token_that_is_no_longer_valid_is_renewed(server, watching):
    watch = watching("aws")
    server.wait_for(REBALANCE)
    server.token = "second"
    server.answers[ACTION] = TAKEN
    assert [news.what for news in heard(watch)] == ["terminate"]
    assert server.asked["/latest/api/token"] == 2


def test_a_server_that_fails_now_and_then_is_not_worth_a_word(server, watching):
    watch = watching("aws")
    server.wait_for(REBALANCE)
    server.fails = True
    server.wait_for(ACTION, 3)
    server.fails = False
    server.wait_for(REBALANCE)
    assert list(watch.news()) == []


def test_a_server_asked_for_that_never_answers_is_told_once(server, watching):
    server.fails = True
    watch = watching("gcp")
    (text,) = heard(watch)
    assert (
        text
        == "train.notices = 'gcp', but its metadata server does not answer: "
        + f"{PREEMPTED} gives 503 Service Unavailable"
    )
    server.wait_for(PREEMPTED, 2)
    assert list(watch.news()) == []


@pytest.mark.parametrize("setting", ["off", "auto"])
def test_elsewhere_no_server_is_asked(server, watching, monkeypatch, setting):
    monkeypatch.setattr(notices, "cloud_here", lambda: None)
    assert watching(setting).cloud is None
    assert not server.asked


def test_a_machine_that_will_be_taken_saves_and_stops_and_the_run_goes_on_elsewhere(server, data, tmp_path):
    """It was likely first: then it saved, and went on."""

    def on_event(event):
        if event["event"] == "step" and event["step"] == 100:
            server.answers[REBALANCE] = LIKELY
        if event["event"] == "checkpoint":
            server.answers[ACTION] = TAKEN

    with pytest.raises(Stopped):
        train(data, tmp_path, *LONG, "train.notices='aws'", on_event=on_event)
    run = next((tmp_path / "runs").iterdir())
    told = [(event["what"], event["when"], event["goes"]) for event in happened(run, "notice")]
    assert told == [("rebalance", "2026-11-24T08:00:00Z", False), ("terminate", "2026-11-24T08:22:00Z", True)]
    first, second = happened(run, "checkpoint")
    end = happened(run, "end")[0]
    assert 100 < first["step"] < second["step"] == end["step"]
    assert (end["reason"], end["exit_code"], end["num_taken"]) == ("stopped", 75, 1)
    assert checkpoint.newest(rundir.open(run)).step == end["step"]


def test_each_machine_of_a_run_hears_its_own_cloud_and_only_the_first_what_the_folder_says(
    server, tmp_path, monkeypatch
):
    run, told = RunDir(tmp_path), []
    asked = Requests(run, "aws", lambda kind, **facts: told.append((kind, facts["what"])), is_first=False)
    request.ask(run, "step")
    asked.start()
    assert asked.take(ends_epoch=True) == (False, False)
    assert not asked.machine_goes
    monkeypatch.setenv("EIGHTEEN_LAUNCH", str(tmp_path))
    server.answers[ACTION] = TAKEN
    answers = [asked.take(ends_epoch=False)]
    while not told:
        answers.append(asked.take(ends_epoch=False))
    asked.close()
    assert answers[-1] == (True, True)
    assert told == [("notice", "terminate")]
    assert asked.machine_goes
    assert json.loads((tmp_path / "notice.json").read_text())["what"] == "terminate", "the launch sees it"
    assert request.asked(run) == "step", "the first rank clears it"


def start(data, folder: Path, *changes: str) -> subprocess.Popen[str]:
    """``eighteen train`` as a process."""
    file = folder / "mine.toml"
    file.write_text(recipes.dump(recipe(*changes)))
    command = [sys.executable, "-m", "eighteen", "train", str(data.path), "--recipe", str(file)]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr
    while text not in (line := process.stderr.readline()):
        assert line, f"it ended without {text!r}"


@pytest.mark.soak
def test_an_interruption_in_mid_run_leaves_a_durable_checkpoint_within_30_s(server, data, tmp_path):
    """In a process of its own, which polls as often as it really does."""
    changes = ("phases.0.epochs=1500", "optim.lr=[[0, 0.05], [1500, 0.0]]", *LONG[2:], "eval.every=1500")
    changes = (*changes, "train.notices='aws'")
    process = start(data, tmp_path, *changes)
    wait_for(process, "phase 0")
    server.wait_for(ACTION)
    server.answers[ACTION] = TAKEN
    announced = time.time()
    assert process.wait(60) == 75
    assert process.stderr
    process.stderr.close()
    run = next((tmp_path / "runs").iterdir())
    (saving,) = happened(run, "checkpoint")
    print(f"durable {saving['time_s'] - announced:.1f} s after the notice")
    assert saving["time_s"] - announced <= 30
    assert checkpoint.newest(rundir.open(run)).step == happened(run, "end")[0]["step"] == saving["step"]
    server.answers.clear()
    eighteen.resume(run)
    assert [event["step"] for event in happened(run, "resume")] == [saving["step"]]
    whole = train(data, tmp_path / "whole", *changes[:-1]).run
    assert differing(saved(run), saved(whole)) == []
