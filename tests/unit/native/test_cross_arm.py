"""The NEON kernels on a machine that is no ARM: cross-compiled, and run by QEMU's emulation of a user's program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, EMULATOR, "cmake") if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"{', '.join(MISSING)} not found; Debian's packages are g++-aarch64-linux-gnu, qemu-user and cmake",
    ),
    pytest.mark.timeout(1800),  # the first test compiles the whole core
]


def run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert result.returncode == 0, "\n".join(failed or [result.stdout[-4000:], result.stderr[-4000:]])
    return result.stdout


@pytest.fixture(scope="session")
def isa_check() -> Path:
    """cpp/tests/isa_check.cpp for ARM. What has been compiled is kept, as for the package itself."""
    build = ROOT / "build" / "isa_check_aarch64"
    run(
        "cmake", "-S", ROOT, "-B", build, "-DPRONK_ISA_CHECK=ON", "-DPRONK_WERROR=ON",
        "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static", "-DPRONK_OPTIMIZE=-O1", "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
    )  # fmt: skip
    run("cmake", "--build", build, "--parallel", "2")
    return build / "isa_check"


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ("cortex-a72", "runs: portable; chosen: portable"),
        ("neoverse-n1", "runs: portable neon; chosen: neon"),
        ("max", "runs: portable neon neon_i8mm; chosen: neon_i8mm"),
    ],
)
def test_the_best_kernels_of_a_cpu_are_chosen(isa_check: Path, cpu: str, expected: str) -> None:
    known = subprocess.run([EMULATOR, "-cpu", "help"], capture_output=True, text=True, check=False)  # which exits 1
    if cpu not in known.stdout.split():
        pytest.skip(f"this {EMULATOR} is too old to know {cpu}")
    assert run(EMULATOR, "-cpu", cpu, isa_check, "--list").strip() == expected


def test_neon_gives_the_same_bits_as_portable(isa_check: Path) -> None:
    last = run(EMULATOR, "-cpu", "max", isa_check, "neon", "neon_i8mm").splitlines()[-1]
    assert re.fullmatch(r"[1-9]\d* checks, 0 failed", last)
