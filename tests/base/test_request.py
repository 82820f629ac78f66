import pytest

from eighteen.base import request
from eighteen.base.rundir import RunDir


@pytest.mark.parametrize("when", ["epoch", "step"])
def test_what_is_asked_is_read_and_cleared(tmp_path, when):
    run = RunDir(tmp_path)
    assert request.asked(run) is None
    request.ask(run, when)
    assert request.asked(run) == when
    request.clear(run)
    assert request.asked(run) is None
    request.clear(run)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"v": 1}', '{"v": 1, "when": "never"}', '{"when": [1]}', "\xff"])
def test_what_is_no_request_asks_for_nothing(tmp_path, text):
    (tmp_path / "stop.json").write_bytes(text.encode("latin1"))
    assert request.asked(RunDir(tmp_path)) is None
