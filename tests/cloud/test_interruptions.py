"""Clouds that take the machines of a launch back: what was done is safe elsewhere by then, and other machines go on."""

from __future__ import annotations

import subprocess
import sys

import pytest
from launching import HOSTS, begun, power_off, wait_for
from metadata_server import ACTION, MetadataServer

from eighteen import cli
from eighteen.base import events
from eighteen.data import places

TAKEN = '{"action": "terminate", "time": "2026-11-24T08:22:00Z"}'


@pytest.fixture
def files(tmp_path):
    return f"file://{tmp_path}/durable"


@pytest.fixture
def s3(monkeypatch):
    """A bucket of a server here."""
    pytest.importorskip("s3fs", reason="needs s3fs and moto[server]")
    server = pytest.importorskip("moto.server", reason="needs s3fs and moto[server]").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    for name, value in {"ACCESS_KEY_ID": "none", "SECRET_ACCESS_KEY": "none", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    places.at("s3://durable").files.mkdir("durable")
    yield "s3://durable"
    server.stop()


@pytest.mark.parametrize("place", ["files", "s3"])
def test_machines_that_are_taken_back_save_where_it_lasts_and_new_ones_go_on(
    packed, machines, tmp_path, place, request
):
    """Both go, with all that is on them: nothing is lost."""
    url = request.getfixturevalue(place)
    changes = ["--set", "train.notices='aws'", "--set", "train.checkpoint='phase'"]  # so that only the notice saves
    command = begun(packed, "--epochs", "90", *changes, "--checkpoint-to", url)
    with MetadataServer() as cloud:
        for home in machines.iterdir():
            (home / ".ssh").mkdir()
            (home / ".ssh" / "environment").write_text(f"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://{cloud.address}/\n")
        process = subprocess.Popen([sys.executable, "-m", "eighteen", *command], stderr=subprocess.PIPE, text=True)
        wait_for(process, "  step ")
        cloud.answers[ACTION] = TAKEN
        (path,) = (tmp_path / "runs").iterdir()
        wait_for(process, "notice of aws: terminate")
        wait_for(process, "  end ")  # a checkpoint may be of the best weights just before
        (there,) = places.at(url).names()
        saved = max((places.at(url) / there / "checkpoints").names())
        for host in HOSTS.split(","):
            power_off(machines / host)
        for host in HOSTS.split(","):
            (machines / host).mkdir()
        wait_for(process, "  resume ")
        wait_for(process, "  step ")
        process.kill()
        process.communicate()
    told = [*events.read(path / "events.jsonl")]
    resumes = [one for one in told if one["event"] == "resume"]  # one more for a machine that was back after the other
    assert resumes[0]["checkpoint"] == saved
    for resumed in resumes:
        before = [one["step"] for one in told[: told.index(resumed)] if one["event"] == "step"]
        print(f"{max(before) + 1 - resumed['step']} steps lost")
        assert max(before) + 1 - resumed["step"] <= 1
    assert next(one for one in told if one["event"] == "end")["num_taken"]
    assert cli.main(["down", str(path)]) == 0
