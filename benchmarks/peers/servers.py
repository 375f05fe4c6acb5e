"""The processes that are measured: servers that listen until they are told to end, and what the peer needs."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PATIENCE = 120.0  # seconds for a server to start, or to come to rest


class Server:
    """A process that listens; `with` ends it."""

    def __init__(self, command: Sequence[str], port: int | None, ready: str, log: Path) -> None:
        """`port` None: the process prints {"url": ...} as its first line. `ready`: a path that answers 200 once it can
        be asked."""
        self._log = log.open("wb")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE if port is None else self._log, stderr=self._log
        )
        try:
            self.port = port or self._said_port()
            self._wait(ready)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()

    @property
    def memory(self) -> int:
        """Resident bytes, mapped files counted."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        """Of pronk's /metrics, over all models."""
        return sum(
            float(v) for v in re.findall(rf"^pronk_{name}(?:{{.*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        )

    def _said_port(self) -> int:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start; {self._log.name} says why")
        return int(json.loads(line)["url"].rpartition(":")[2])

    def _wait(self, path: str) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get(path)
                return
            time.sleep(0.1)
        raise SystemExit(f"{self.process.args!r} does not answer; {self._log.name} says why")

    def rests(self) -> bool:
        """Whether all requests leave pronk's engine when nobody asks any more."""
        end = time.monotonic() + PATIENCE
        while self.metric("running") + self.metric("waiting"):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True


def peer_python(cache: Path) -> Path:
    """The Python of an environment with llama_cpp.server's packages, made once. Raises RuntimeError that says what is
    missing."""
    try:
        installed = version("llama-cpp-python")
    except PackageNotFoundError:
        raise RuntimeError("llama-cpp-python is not installed") from None
    home = cache / f"llama-cpp-server-{installed}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"installing llama-cpp-python's server into {home}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", str(home)])
        (site,) = home.glob("lib/python*/site-packages")
        (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        _run([str(python), "-m", "pip", "install", "--quiet", f"llama-cpp-python[server]=={installed}"])
        _run([str(python), "-c", "import llama_cpp.server.app"])
        (home / "ready").touch()
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise RuntimeError(said[-1][:160].replace("|", "/"))
