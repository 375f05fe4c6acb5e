"""The job: right bytes, nothing half-written, going on after a kill at any moment, refusals in one line."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.open import open_checkpoint
from pronk.checkpoints.random import random_checkpoint
from pronk.config import RopeScaling
from pronk.errors import CheckpointError
from pronk.quantize import importance, journal, quantizer, recipes
from pronk.tensors import codec, types
from pronk.tensors.lazy import LazyTensor


def plan_for(source: Checkpoint, name: str = "Q8_0") -> recipes.Plan:
    return recipes.plan(recipes.named(name), source.config, weighted=False)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_each_tensor_is_what_its_encoder_makes_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "_CHUNK", 1000)  # pieces of three rows
    source = random_checkpoint("tiny", "F16")
    seen: list[tuple[str, str, int, int]] = []

    def progress(name: str, kind: types.TensorType, done: int, total: int) -> None:
        seen.append((name, str(kind), done, total))

    done = quantizer.quantize(source, tmp_path / "a.gguf", plan_for(source), progress=progress)
    written = open_checkpoint(tmp_path / "a.gguf")
    for name, tensor in source.tensors.items():
        kind = types.F32 if len(tensor.shape) == 1 else types.Q8_0
        assert written.tensors[name].type == kind
        assert np.array_equal(written.tensors[name].load(), codec.encode(tensor.array(), kind)), name
    assert [name for name, *_ in seen] == list(source.tensors)
    assert seen[-1][2] + written.tensors[seen[-1][0]].nbytes == seen[-1][3]
    assert done.nbytes == (tmp_path / "a.gguf").stat().st_size
    assert names_in(tmp_path) == ["a.gguf"]


def test_what_has_its_type_is_copied_bit_for_bit(tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "Q4_K_M")
    plan = plan_for(source, "Q4_K_M")
    quantizer.quantize(source, tmp_path / "a.gguf", plan)
    written = open_checkpoint(tmp_path / "a.gguf")
    assert all(np.array_equal(written.tensors[n].load(), t.load()) for n, t in source.tensors.items())


def test_file_type_is_the_recipes(tmp_path: Path) -> None:
    from pronk.checkpoints.gguf_reader import read_metadata

    source = random_checkpoint("tiny", "Q5_K")
    plan = recipes.Plan("Q5_K_S", {n: t.type for n, t in source.tensors.items()}, file_type=16)
    quantizer.quantize(source, tmp_path / "a.gguf", plan)
    assert read_metadata(tmp_path / "a.gguf")["general.file_type"] == 16


DYING = """
import os, signal, sys
from pronk.cli import main
from pronk.quantize.journal import Journal
left, whole = int(sys.argv[1]), Journal.write
def write(self, data):
    global left
    left -= 1
    if not left:
        self._file.write(bytes(data)[: len(data) // 2])
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, data)
Journal.write = write
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_run_leaves_no_file_and_the_next_goes_on(tmp_path: Path) -> None:
    source = random_checkpoint("tiny")
    quantizer.quantize(source, tmp_path / "whole.gguf", plan_for(source))
    target = tmp_path / "killed.gguf"
    dice = random.Random(3)
    for _ in range(4):
        words = ["quantize", "random:tiny", str(target), "--type", "Q8_0"]
        killed = subprocess.run([sys.executable, "-c", DYING, str(dice.randint(2, 16)), *words], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not target.exists()
    done = quantizer.quantize(source, target, plan_for(source))
    assert done.resumed > 0
    assert target.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert names_in(tmp_path) == ["killed.gguf", "whole.gguf"]


class Stop(BaseException):
    """As good as a kill, within the process."""


def interrupted(source: Checkpoint, path: Path, plan: recipes.Plan, at: int) -> None:
    steps = iter(range(10**6))

    def progress(*_: object) -> None:
        if next(steps) == at:
            raise Stop

    with pytest.raises(Stop):
        quantizer.quantize(source, path, plan, progress=progress)


def test_what_a_kill_damaged_is_made_again(tmp_path: Path) -> None:
    source = random_checkpoint("tiny")
    path = tmp_path / "a.gguf"
    quantizer.quantize(source, tmp_path / "whole.gguf", plan_for(source))
    interrupted(source, path, plan_for(source), 12)
    part = journal.part_of(path)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1  # a page that never reached the disk
    part.write_bytes(data)
    done = quantizer.quantize(source, path, plan_for(source))
    assert 0 < done.resumed < 12
    assert path.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.parametrize("mangled", [b"", b"\0" * 100, b'{"work": 3}\n[]\n', b'{"work"', b"\xff\n"])
def test_a_mangled_journal_means_beginning_again(tmp_path: Path, mangled: bytes) -> None:
    source = random_checkpoint("tiny")
    path = tmp_path / "a.gguf"
    interrupted(source, path, plan_for(source), 3)
    journal.journal_of(path).write_bytes(mangled)
    done = quantizer.quantize(source, path, plan_for(source))
    assert done.resumed == 0
    assert len(open_checkpoint(path).tensors) == len(source.tensors)


def test_other_work_is_not_continued(tmp_path: Path) -> None:
    source = random_checkpoint("tiny")
    path = tmp_path / "a.gguf"
    interrupted(source, path, plan_for(source), 9)
    other = plan_for(source, "F16")
    assert quantizer.quantize(source, path, other).resumed == 0
    assert open_checkpoint(path).tensors["output.weight"].type == types.F16


def test_two_runs_do_not_write_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    source = random_checkpoint("tiny")
    path = tmp_path / "a.gguf"
    with journal.resumable(path, "x"), pytest.raises(CheckpointError, match="being written by another process"):
        quantizer.quantize(source, path, plan_for(source))


def test_an_existing_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    source = random_checkpoint("tiny")
    path = tmp_path / "a.gguf"
    path.write_text("precious")
    with pytest.raises(CheckpointError, match="exists; choose another destination, or --overwrite"):
        quantizer.quantize(source, path, plan_for(source))
    steps = iter(range(100))

    def progress(*_: object) -> None:
        assert path.read_text() == "precious"
        if next(steps) == 5:
            raise Stop

    with pytest.raises(Stop):
        quantizer.quantize(source, path, plan_for(source), overwrite=True, progress=progress)
    assert path.read_text() == "precious"
    assert quantizer.quantize(source, path, plan_for(source), overwrite=True).resumed == 5
    assert open_checkpoint(path).config == source.config


def test_types_of_least_bits_need_an_importance_matrix(tmp_path: Path) -> None:
    source = random_checkpoint("tiny")
    with pytest.raises(
        CheckpointError, match=r"layers\.0\.attention\.wq\.weight is to be IQ2_XXS.*no importance matrix"
    ):
        quantizer.quantize(source, tmp_path / "a.gguf", plan_for(source, "IQ2_XXS"))
    with pytest.raises(CheckpointError, match="says nothing of it"):
        quantizer.check(source, plan_for(source, "IQ1_S"), importance.ImportanceMatrix({}), False)
    parts = {"attn_q": 256, "attn_k": 256, "attn_output": 256, "ffn_gate": 256, "ffn_up": 256, "ffn_down": 768}
    full = {
        f"blk.{i}.{part}.weight": importance.Entry(np.ones(width), 1.0)
        for i in range(4)
        for part, width in parts.items()
    }
    quantizer.check(source, plan_for(source, "IQ2_XXS"), importance.ImportanceMatrix(full), False)
    assert names_in(tmp_path) == []


def test_the_encoder_gets_one_weight_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[int, ...], list[object]] = {}
    plain = codec.encode

    def encode(array, kind, weights=None):
        seen.setdefault(array.shape, []).append(weights)
        return plain(array, kind, weights)

    monkeypatch.setattr(codec, "encode", encode)
    source = random_checkpoint("tiny")
    matrix = importance.ImportanceMatrix({"blk.2.ffn_down.weight": importance.Entry(np.arange(768.0), 2.0)})
    done = quantizer.quantize(source, tmp_path / "a.gguf", plan_for(source), importance=matrix)
    down = [weights for weights in seen[256, 768] if weights is not None]
    assert len(down) == 1
    assert np.array_equal(down[0], np.arange(768, dtype=np.float32) / 2)
    assert all(weights is not None for weights in seen[768, 256]), "the norm before w1 and w3 says something"
    assert all(weights is None for weights in seen[source.config.vocab_size, 256])
    assert len(done.unweighted) == 27


def test_what_is_no_weight_of_the_model_is_written_as_it_is(tmp_path: Path) -> None:
    """GGUF has the factors of Llama 3.1's rotary embedding as a tensor, of which no importance matrix knows."""
    source = random_checkpoint("tiny")
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    source = replace(source, config=replace(source.config, rope_scaling=scaling))
    matrix = importance.ImportanceMatrix({"blk.2.ffn_down.weight": importance.Entry(np.arange(768.0), 2.0)})
    quantizer.quantize(source, tmp_path / "a.gguf", plan_for(source), importance=matrix)
    assert open_checkpoint(tmp_path / "a.gguf").config.rope_scaling == scaling


def test_a_quantized_source_is_refused_unless_allowed(tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "Q4_K")
    with pytest.raises(CheckpointError, match=r"is Q4_K already, .* --allow-requantize"):
        quantizer.quantize(source, tmp_path / "a.gguf", plan_for(source))
    quantizer.quantize(source, tmp_path / "a.gguf", plan_for(source), allow_requantize=True)
    quantizer.quantize(source, tmp_path / "b.gguf", plan_for(source, "F16"))  # only decoded


def test_values_that_are_not_finite_are_refused_and_nothing_stays(tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "F32")
    name = "layers.1.attention.wo.weight"
    values = source.tensors[name].array().copy()
    values[3, 5] = np.inf
    broken = LazyTensor(name, values.shape, types.F32, lambda: values.reshape(-1).view(np.uint8))
    damaged = replace(source, tensors={**source.tensors, name: broken})
    with pytest.raises(CheckpointError, match=r"layers\.1\.attention\.wo\.weight has values that are infinite"):
        quantizer.quantize(damaged, tmp_path / "a.gguf", plan_for(source))
    assert names_in(tmp_path) == []


def test_the_journal_names_what_is_whole(tmp_path: Path) -> None:
    source = random_checkpoint("tiny")
    path = tmp_path / "a.gguf"
    interrupted(source, path, plan_for(source), 2)
    lines = [json.loads(line) for line in journal.journal_of(path).read_text().splitlines()]
    assert [line.get("piece") for line in lines] == [None, "", *list(source.tensors)[:2]]
    assert lines[-1]["end"] == journal.part_of(path).stat().st_size
