"""Threads and instruction sets: chosen by hand, by the environment, across forks, and from several Python threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pronk.errors import BackendError
from pronk.native import runtime
from pronk.native.matmul import Matrix, linear
from pronk.tensors import types
from support.quant_blocks import random_weights


@pytest.fixture(autouse=True)
def _restore_runtime() -> Iterator[None]:
    isa, threads = runtime.isa(), runtime.threads()
    yield
    runtime.select_isa(isa)
    runtime.set_threads(threads)


def product() -> np.ndarray:
    weight = Matrix(random_weights(types.Q8_0, 3000, 256), types.Q8_0.id, 3000, 256)
    x = np.random.default_rng(0).standard_normal((3, 256), dtype=np.float32)
    return linear(x, [weight])[0]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


SHOW = "from pronk.native import runtime; print(runtime.isa(), runtime.threads())"


def test_isas() -> None:
    assert runtime.isas()[0] == "portable"
    for isa in runtime.isas():
        runtime.select_isa(isa)
        assert runtime.isa() == isa
    with pytest.raises(BackendError, match=r"instruction set 'sse9' cannot run here, expected one of portable"):
        runtime.select_isa("sse9")


def test_threads() -> None:
    expected = product()
    for count in (1, 2, 5, 1, 3):
        runtime.set_threads(count)
        assert runtime.threads() == count
        np.testing.assert_array_equal(product(), expected)
    for bad in (0, -1, 10**6):
        with pytest.raises(BackendError, match=f"{bad} threads asked for"):
            runtime.set_threads(bad)


def test_usable_cores_honour_affinity() -> None:
    assert 1 <= runtime.usable_cores() <= (os.cpu_count() or 1)
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity masks")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert runtime.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_environment() -> None:
    assert run_python(SHOW, PRONK_ISA="portable", PRONK_THREADS="3").stdout == "portable 3\n"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PRONK_ISA", "sse9", "environment variable PRONK_ISA: instruction set 'sse9' cannot run here"),
        ("PRONK_THREADS", "many", "environment variable PRONK_THREADS is 'many', expected a number from 1"),
        ("PRONK_THREADS", "0", "environment variable PRONK_THREADS is '0', expected a number from 1"),
    ],
)
def test_wrong_environment_is_one_clear_error(variable: str, value: str, message: str) -> None:
    result = run_python(SHOW, **{variable: value})
    assert result.returncode != 0
    assert f"BackendError: {message}" in result.stderr.splitlines()[-1]


def test_several_python_threads_at_once() -> None:
    runtime.set_threads(3)
    expected = product()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(30):
                np.testing.assert_array_equal(product(), expected)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_resizing_while_others_compute() -> None:
    expected = product()
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                np.testing.assert_array_equal(product(), expected)
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    for count in (1, 4, 2, 3, 1, 2):
        runtime.set_threads(count)
        product()
    stop.set()
    worker.join()
    assert not failures


FORK = """
import os, sys
import numpy as np
from pronk.native import runtime
from pronk.native.matmul import Matrix, linear
runtime.set_threads(3)
weight = Matrix(np.arange(3000 * 64, dtype=np.float32).view(np.uint8), 0, 3000, 64)
x = np.ones((2, 64), np.float32)
expected = linear(x, [weight])[0]
child = os.fork()
same = runtime.threads() == 3 and all((linear(x, [weight])[0] == expected).all() for _ in range(20))
if child == 0:
    os._exit(0 if same else 1)
print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_makes_a_new_pool() -> None:
    result = run_python(FORK)
    assert result.stdout == "True 0\n", result.stderr


def test_exit_while_workers_sleep_or_spin() -> None:
    code = "import numpy as np; from pronk.native.matmul import Matrix, linear; from pronk.native import runtime\n"
    code += "runtime.set_threads(4); w = Matrix(np.zeros(4096 * 256, np.uint8), 0, 4096, 64)\n"
    code += "linear(np.ones((9, 64), np.float32), [w])"
    assert run_python(code).returncode == 0
