"""torch's launcher, as ``python -m torch.distributed.run``, but for where it listens: see ``meeting``.

Used with ``--rdzv-backend WAY --rdzv-endpoint NAME:PORT --rdzv-conf rank=NUMBER,timeout=SECONDS``.
"""

from __future__ import annotations

from torch.distributed import run
from torch.distributed.elastic.rendezvous import (
    RendezvousInfo,
    RendezvousParameters,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from eighteen.training import meeting

WAY = "eighteen"


class OneAddress(StaticTCPRendezvous):
    """torch's static way to meet, with a store of ours."""

    def get_backend(self) -> str:
        return WAY

    def next_rendezvous(self) -> RendezvousInfo:
        self._store = self._store or meeting.store(
            self.master_addr,
            self.master_port,
            self.world_size,
            is_first=self.rank == 0,
            is_alone=self.world_size == 1,
            timeout=self.timeout,
        )
        return super().next_rendezvous()


def _handler(asked: RendezvousParameters) -> OneAddress:
    name, port = parse_rendezvous_endpoint(asked.endpoint, default_port=-1)
    rank, timeout_s = int(asked.get("rank")), int(asked.get("timeout"))
    return OneAddress(name, port, rank, asked.max_nodes, asked.run_id, timeout_s)


if __name__ == "__main__":
    rendezvous_handler_registry.register(WAY, _handler)
    run.main()
