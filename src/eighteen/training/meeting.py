"""Where ranks find each other by TCP: torch's store, but that it listens at one address of the first machine only."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore


def store(host: str, port: int, size: int, *, is_first: bool, is_alone: bool, timeout: timedelta) -> TCPStore:
    """torch's own listens at all addresses, and lets in whoever comes.

    host: a name of the first machine      size: how many meet      is_first: whether it is here
    is_alone: whether all are on one machine
    """
    listener = _listener(host, port, is_alone=is_alone) if is_first else None
    number = None if listener is None else listener.detach()  # torch closes it
    return TCPStore(host, port, size, is_first, timeout, multi_tenant=True, master_listen_fd=number)


def _listener(host: str, port: int, *, is_alone: bool) -> socket.socket | None:
    """At the first address of the name that is this machine's and that others reach; None if it has none such, as
    where the name is of a router before it: torch then listens at all.
    """
    with suppress(OSError):
        for family, _, _, _, (address, *_) in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            is_reached = is_alone or not (str(address).startswith("127.") or address == "::1")
            with suppress(OSError):
                if is_reached:
                    return socket.create_server((str(address), port), family=family)
    return None
