"""Another machine, reached by OpenSSH as its owner has set it up: keys, known hosts and jumps are ssh's own matter.

What is done there is ``agent``, sent as text. No password is ever asked for, no agent is forwarded, and a host whose
key is not known is refused.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from eighteen.base.errors import MachineError
from eighteen.cloud.hosts import Host
from eighteen.data.shards import sha256_of

OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=3", "ForwardAgent=no")
ANSWER_S = 60.0  # for what takes no time
LONG_S = 3600.0  # for what copies or installs
GRACE_S = 5.0  # for a talk to end by itself


class Page(NamedTuple):
    """Of a run, shown by a module of the machine that it lies on, at a port of that machine."""

    title: str
    port: int
    module: tuple[str, ...]


PAGES = {
    "live": Page("live page", 8018, ("eighteen", "live", "--port", "8018")),
    "tensorboard": Page("TensorBoard", 6006, ("tensorboard.main", "--logdir=runs", "--host=127.0.0.1", "--port=6006")),
}

Talk = Callable[..., dict[str, Any]]  # (verb, facts, limit_s=) -> what is answered


def require_ssh() -> None:
    """MachineError without OpenSSH's client."""
    if missing := [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]:
        got, hint = f"no program {missing[0]}", "sudo apt-get install openssh-client"
        raise MachineError("reach machines", got=got, need="OpenSSH's client on PATH", hint=hint)


class Silent(MachineError):
    """A machine that cannot be reached, or does not answer in time."""


@dataclass(frozen=True)
class Remote:
    """ssh: a file with settings for it, instead of the person's own"""

    host: Host
    python: str = "python3"
    ssh: str = ""

    def ask(self, verb: str, facts: Mapping[str, Any], *, limit_s: float = ANSWER_S) -> dict[str, Any]:
        """What ``agent`` answers. Silent if the machine does, MachineError if what was asked failed there."""
        try:
            done = subprocess.run(
                self.words(verb, facts), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            raise self._silent(verb, f"no answer in {limit_s:g} s") from None
        self._check(verb, done.returncode, done.stderr)
        return json.loads(done.stdout)

    def send(self, verb: str, facts: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Files by their names there, in this order, each verified there."""
        sums = {name: sha256_of(path) for name, path in files.items()}
        with self._open(verb, {**facts, "sha256": sums}, stdin=subprocess.PIPE) as process:
            assert process.stdin
            with suppress(BrokenPipeError), tarfile.open(fileobj=process.stdin, mode="w|") as tar:
                for name, path in files.items():
                    tar.add(path, name, recursive=False)
            with suppress(BrokenPipeError):
                process.stdin.close()

    def fetch(self, facts: Mapping[str, Any], to: Path) -> None:
        """The files that the machine gives, into a folder."""
        with self._open("give", facts, stdout=subprocess.PIPE) as process:
            assert process.stdout
            with suppress(tarfile.ReadError), tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    tar.extract(member, to, filter="data")
            process.stdout.read()

    @contextmanager
    def talk(self, source: str) -> Iterator[Talk]:
        """A program of ours there, sent as text, that answers a line of JSON by another until the block ends."""
        words = [*self.login(), shlex.join([self.python, "-c", source])]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdin
            assert process.stdout
            assert process.stderr
            sink, lines, said = process.stdin, process.stdout, process.stderr

            def ask(verb: str, facts: Mapping[str, Any], *, limit_s: float = ANSWER_S) -> dict[str, Any]:
                late = threading.Timer(limit_s, process.terminate)
                late.start()
                with suppress(BrokenPipeError):
                    sink.write(json.dumps({"verb": verb, **facts}) + "\n")
                    sink.flush()
                line = lines.readline()
                late.cancel()
                if line:
                    return json.loads(line)
                code = process.wait()
                if code < 0:
                    raise self._silent(verb, f"no answer in {limit_s:g} s")
                self._check(verb, code, said.read())
                raise self._silent(verb, "an end without an answer")

            try:
                yield ask
            finally:
                with suppress(BrokenPipeError):
                    sink.close()
                try:
                    process.wait(GRACE_S)
                except subprocess.TimeoutExpired:
                    process.kill()

    def words(self, verb: str, facts: Mapping[str, Any]) -> list[str]:
        return [*self.login(), shlex.join([self.python, "-c", _agent(), verb, json.dumps(facts)])]

    def login(self) -> list[str]:
        """The words before what is to be done there."""
        options = [word for option in OPTIONS for word in ("-o", option)]
        port = ["-p", str(self.host.port)] if self.host.port else []
        return ["ssh", *self._settings(), "-x", *options, *port, "--", str(self.host)]

    def look_on(self, session: str) -> list[str]:
        """What a person types to look on."""
        return [*self._short()[:-1], str(self.host), "-t", "tmux", "attach", "-t", session]

    def look_at(self, page: str, session: str) -> list[str]:
        """What a person types to see one of PAGES, at the same port here, until Ctrl-C."""
        port = PAGES[page].port
        forward = ["-L", f"127.0.0.1:{port}:127.0.0.1:{port}"]
        return [*self._short()[:-1], *forward, str(self.host), "-t", f".eighteen/launches/{session}/{page}"]

    @contextmanager
    def _open(
        self,
        verb: str,
        facts: Mapping[str, Any],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
    ) -> Iterator[subprocess.Popen[bytes]]:
        words = self.words(verb, facts)
        with subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE) as process:
            try:
                yield process
                assert process.stderr
                said = process.stderr.read().decode(errors="replace")
                process.wait(LONG_S)
            except BaseException:
                process.kill()
                raise
        self._check(verb, process.returncode, said)

    def _check(self, verb: str, code: int, said: str) -> None:
        if code == 255:  # ssh's own
            raise self._silent(verb, said.strip().splitlines()[-1] if said.strip() else "nothing more")
        if code:
            need, hint = "what each machine can do", shlex.join([*self._short(), self.python, "--version"])
            got = said.strip()[-1000:] or f"exit code {code}"
            raise MachineError(f"{verb} on {self.host}", got=got, need=need, hint=hint)

    def _silent(self, verb: str, got: str) -> Silent:
        need = "a machine that lets us in without a password, and whose key is known"
        return Silent(f"{verb} on {self.host}", got=got, need=need, hint=shlex.join([*self._short(), "true"]))

    def _short(self) -> list[str]:
        port = ["-p", str(self.host.port)] if self.host.port else []
        return ["ssh", *self._settings(), *port, str(self.host)]

    def _settings(self) -> list[str]:
        return ["-F", self.ssh] if self.ssh else []


@cache
def _agent() -> str:
    return (resources.files("eighteen.cloud") / "agent.py").read_text("utf-8")
