"""Where the store listens by which ranks find each other."""

import socket
from datetime import timedelta

import pytest

from eighteen.training import meeting


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "is_alone", "only"),
    [
        ("127.0.0.2", True, "127.0.0.2"),
        ("localhost", True, "127.0.0.1"),
        ("localhost", False, None),  # whoever is elsewhere would not come in
    ],
)
def test_the_store_listens_at_the_address_of_its_name(name, is_alone, only, port):
    store = meeting.store(name, port, 1, is_first=True, is_alone=is_alone, timeout=timedelta(seconds=20))
    store.set("who", "first")
    other = meeting.store(name, port, 1, is_first=False, is_alone=is_alone, timeout=timedelta(seconds=20))
    assert other.get("who") == b"first"
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        with socket.socket() as caller:
            assert (caller.connect_ex((address, port)) == 0) == (only in (None, address))
