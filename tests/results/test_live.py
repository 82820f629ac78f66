"""The page of a run, from a real server, and in a real browser where there is one."""

import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from eighteen.base import lock
from eighteen.base.events import append
from eighteen.base.rundir import RunDir
from eighteen.results.live import Page

EVIL = "<img src=x onerror=alert(1)>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def event(kind, after_s=0.0, **facts):
    return {"v": 1, "event": kind, "time_s": time.time() - 100 + after_s, **facts}


def step(number, **facts):
    waits = {"data": 0.25, "compute": 0.75, "communication": 0.0, "other": 0.0}
    known = {"epoch": number / 10, "loss": 2.0, "top1": 0.5, "top5": 0.9, "lr": 0.1, "images_per_s": 1000.0}
    return event("step", number, step=number, num_steps=40, waits=waits, memory_bytes=2**30, **known, **facts)


START = event("start", recipe="fast", dataset=EVIL, num_steps=40, epochs=4, model="resnet50", device="cpu", world=1)
PHASE = event("phase", phase=0, size=96, batch=64, epoch=0, step=0)
EVAL = event("eval", 21, step=20, epoch=2, samples=1280, split="val", loss=1.0, top1=0.75, top5=1.0, best=True)
FINDING = event(
    "finding", 22, code="F001", what=EVIL, why="", evidence="seen", command="eighteen train --fix", gain=None
)
END = event("end", 40, reason="done", step=40, top1=0.75, top5=1.0, seconds=40.0, exit_code=0)


@pytest.fixture
def run(tmp_path):
    """A run of another machine: nothing but what is told of it."""
    found = RunDir(tmp_path / "runs" / "flowers-20261128T120000Z")
    found.path.mkdir(parents=True)
    tell(found, START, PHASE, *map(step, range(21)), EVAL, FINDING)
    return found


def tell(run, *events):
    for one in events:
        append(run.events, one)


def page_of(run):
    return Page(lambda: run)


@contextmanager
def live(*arguments, cwd):
    """The command; gives its process and the URL that it says."""
    words = [sys.executable, "-m", "eighteen", "live", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().split()[0]
        finally:
            process.kill()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read().decode()


def test_the_page_follows_what_is_told(run):
    page = page_of(run)
    first = page.now()
    assert first["title"] == "50 % · top-1 75.00 % · flowers-20261128T120000Z"
    assert first["have"] == 25
    assert len(first["figures"]) == 6
    assert [one["alert"] for one in first["lines"]] == [True, False, False, False]
    assert "finding F001" in first["lines"][0]["text"]
    assert first["lines"][0]["text"].split()[0] == "0:22"
    assert "figures" not in page.now(have=25)
    tell(run, step(30))
    second = page.now(have=25)
    assert second["have"] == 26
    assert second["title"].startswith("75 %")
    assert second["figures"][2]["data"][0]["x"][-1] == 3.0


def test_steps_that_are_done_again_are_shown_once(run):
    page = page_of(run)
    page.now()
    tell(run, event("resume", 60, step=10, epoch=1.0, checkpoint="step-000010"), step(10), step(11))
    assert page.now()["figures"][2]["data"][0]["x"] == [number / 10 for number in range(12)]


def test_markup_in_names_is_text(run):
    now = page_of(run).now()
    assert "&lt;img src=x onerror=alert(1)&gt;" in now["board"]
    assert "<img" not in now["board"]


def test_it_says_who_trains_and_when_nobody_does(run):
    page = page_of(run)
    assert page.now()["state"].startswith("last heard of")
    assert not page.now()["alert"]
    with lock.held(run):
        now = page.now()
        assert "trained by process" in now["state"]
        assert f"eighteen stop {run.path}" in now["state"]
        assert not now["alert"]
    now = page.now()
    assert "no process trains it" in now["state"]
    assert f"eighteen train --resume {run.path}" in now["state"]
    assert now["alert"]
    tell(run, END)
    assert page.now()["state"].startswith("ended")
    assert not page.now()["alert"]


def test_a_run_may_begin_later(tmp_path, run):
    (tmp_path / "empty").mkdir()
    with live("--runs-dir", "empty", cwd=tmp_path) as (_, url):
        now = json.loads(get(url + "now"))
        assert now["state"] == "waiting for the run to begin"
        assert now["title"].endswith("eighteen")
        shutil.move(run.path, tmp_path / "empty")
        assert json.loads(get(url + "now"))["title"].endswith(run.path.name)


def test_the_newest_run_is_shown_until_ctrl_c(tmp_path, run):
    older = run.path.with_name("older")
    shutil.copytree(run.path, older)
    append(run.events, step(31))
    with live(cwd=tmp_path) as (process, url):
        assert json.loads(get(url + "now"))["title"].endswith(run.path.name)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr
        assert process.stderr.read() == ""


def test_only_this_machine_is_answered_and_nothing_else_is_given(tmp_path, run):
    (run.path / "recipe.toml").write_text("secret")
    with live(run.path, cwd=tmp_path) as (_, url):
        port = int(url.rpartition(":")[2].rstrip("/"))
        assert url == f"http://127.0.0.1:{port}/"
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.2", port)) != 0  # it would be answered if all addresses were
        assert "<title>eighteen</title>" in get(url, Host="localhost:9999")
        for wrong in ("recipe.toml", "../recipe.toml", "..%2frecipe.toml", "live.py", "now/../live.html"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(url + wrong)
        for wrong in ("rebound.example:8018", "127.0.0.1.example", "[", "localhost:"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                get(url + "now", Host=wrong)
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(urllib.request.Request(url, data=b"x", method="POST"), timeout=30)


def test_a_browser_that_goes_before_it_is_answered_leaves_no_word(tmp_path, run):
    with live(run.path, cwd=tmp_path) as (process, url):
        port = int(url.rpartition(":")[2].rstrip("/"))
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
                gone.sendall(b"GET /plotly.js HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert json.loads(get(url + "now"))["have"] == 25
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == ""


def test_wrong_arguments_are_said(tmp_path, run):
    def said(*arguments):
        words = [sys.executable, "-m", "eighteen", "live", *arguments]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        return done.stderr

    assert "show runs/nothing: got no such folder" in said("runs/nothing")
    assert "show elsewhere: got no such folder" in said("--runs-dir", "elsewhere")
    assert "show runs: got a folder without a run" in said("runs")
    assert "--port 70000" in said("--port", "70000")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}: got" in (text := said(str(run.path), "--port", str(port)))
        assert "--port 0 takes a free one" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
def test_a_browser_draws_it_without_a_complaint(tmp_path, run):
    with live(run.path, cwd=tmp_path) as (_, url):
        browser = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
        shown = [*browser, "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", url]
        done = subprocess.run(shown, capture_output=True, text=True, timeout=120)
    assert "<title>50 % · top-1 75.00 %" in done.stdout
    assert done.stdout.count('class="js-line"') >= 9  # curves, as plotly draws them
    assert "finding F001" in done.stdout
    assert "images/s" in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr
