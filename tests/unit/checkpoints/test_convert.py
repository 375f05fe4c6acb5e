"""Any format to any other: bit for bit where the type stays, whole or not at all, and never over something else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pronk.checkpoints.checkpoint import Checkpoint
from pronk.checkpoints.convert import convert
from pronk.checkpoints.open import open_path
from pronk.checkpoints.random import random_checkpoint
from pronk.cli import main
from pronk.errors import CheckpointError
from pronk.tensors import types
from pronk.tensors.lazy import LazyTensor
from support.conversions import assert_same_tokenizer, assert_same_weights, converted

FORMATS = [("gguf", 1), ("hf", 1), ("meta", 1), ("meta", 4)]


@pytest.fixture
def stories(shared_data: Path) -> Checkpoint:
    return open_path(shared_data / "weights/stories260K/stories260K.bin")


@pytest.mark.parametrize(("first", "shards"), FORMATS)
@pytest.mark.parametrize(("second", "more"), FORMATS)
def test_there_and_on_and_back(
    tmp_path: Path, stories: Checkpoint, first: str, shards: int, second: str, more: int
) -> None:
    one = converted(stories, tmp_path / "one", first, shards=shards)
    two = converted(one, tmp_path / "two", second, shards=more)
    assert two.config == stories.config
    assert_same_weights(stories, two)
    assert_same_tokenizer(stories, two)


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(("to", "shards"), FORMATS)
def test_float_types_are_kept(tmp_path: Path, type: str, to: str, shards: int) -> None:
    source = random_checkpoint("tiny", type)
    done = convert(source, tmp_path / "one", to, shards=shards)  # type: ignore[arg-type]
    assert done.dtype == type
    one = open_path(tmp_path / "one")
    assert_same_weights(source, one, exact_types=False)
    assert_same_tokenizer(source, one)
    assert_same_weights(source, converted(one, tmp_path / "back.gguf", "gguf"))  # norms in F32, as they began


def test_quantized_gguf_is_copied_bit_for_bit(tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "Q4_K_M")
    one = converted(source, tmp_path / "1.gguf", "gguf")
    convert(one, tmp_path / "2.gguf", "gguf")
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()
    assert_same_weights(source, one)


def test_dtype_holds_for_quantized_matrices_too(tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "Q8_0")
    again = converted(source, tmp_path / "m.gguf", "gguf", dtype="f32")
    assert {t.type for t in again.tensors.values()} == {types.F32}
    assert_same_weights(source, again, exact_types=False)


def test_rounding_is_to_nearest_even(tmp_path: Path) -> None:
    values = np.array(
        [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 1e-40, 3.3e38] + [0.0] * 250, np.float32
    )
    again = converted(with_tensor(values), tmp_path / "m.gguf", "gguf", dtype="bf16")
    found = again.tensors["output.weight"].array()[0, :6]
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert np.array_equal(found, torch.from_numpy(values[:6]).to(torch.bfloat16).float().numpy())


def with_tensor(row: np.ndarray, name: str = "output.weight") -> Checkpoint:
    """tiny in F32, each row of one tensor these values."""
    source = random_checkpoint("tiny", "F32")
    old = source.tensors[name]
    data = np.broadcast_to(row, old.shape).astype(np.float32).reshape(-1).view(np.uint8)
    return replace(source, tensors={**source.tensors, name: LazyTensor(name, old.shape, types.F32, lambda: data)})


def test_values_that_f16_cannot_hold_are_refused(tmp_path: Path) -> None:
    source = with_tensor(np.full(256, 1e5))
    with pytest.raises(CheckpointError, match=r"output\.weight has values up to 1e\+05, F16 ends at 65504"):
        convert(source, tmp_path / "m.gguf", "gguf", dtype="f16")
    assert list(tmp_path.iterdir()) == []


def test_norms_that_the_type_cannot_hold_stay_as_they_are(tmp_path: Path) -> None:
    source = with_tensor(np.full(256, 1.0001), "norm.weight")
    for to in ("hf", "meta"):
        again = converted(source, tmp_path / to, to, dtype="bf16")
        assert again.tensors["norm.weight"].type == types.F32
        assert again.tensors["layers.0.ffn_norm.weight"].type == types.BF16
        assert np.array_equal(again.tensors["norm.weight"].array(), source.tensors["norm.weight"].array())


def test_mixed_floats_become_f32(tmp_path: Path) -> None:
    source = random_checkpoint("tiny", "BF16")
    source = replace(
        source, tensors={**source.tensors, "output.weight": random_checkpoint("tiny", "F16").tensors["output.weight"]}
    )
    assert convert(source, tmp_path / "hf", "hf").dtype == "F32"
    assert_same_weights(source, open_path(tmp_path / "hf"), exact_types=False)


# --- whole or not at all ---

TARGETS = [("gguf", "m.gguf"), ("hf", "hf"), ("meta", "meta")]


@pytest.mark.parametrize(("to", "name"), TARGETS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_behind(tmp_path: Path, to: str, name: str, error: type[BaseException]) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise error

    with pytest.raises(error):
        convert(random_checkpoint("tiny"), tmp_path / name, to, progress=stop)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("to", "name"), TARGETS)
def test_old_result_stays_until_the_new_one_is_whole(tmp_path: Path, to: str, name: str) -> None:
    old = random_checkpoint("tiny", "F32", seed=1)
    convert(old, tmp_path / name, to)  # type: ignore[arg-type]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    new = random_checkpoint("tiny", "F32", seed=2)
    with pytest.raises(KeyboardInterrupt):
        convert(new, tmp_path / name, to, overwrite=True, progress=stop)  # type: ignore[arg-type]
    assert_same_weights(old, open_path(tmp_path / name))
    convert(new, tmp_path / name, to, overwrite=True)  # type: ignore[arg-type]
    assert_same_weights(new, open_path(tmp_path / name))
    assert [p.name for p in tmp_path.iterdir()] == [name]


KILLED = """
import sys, time
from pathlib import Path
from pronk.checkpoints.convert import convert
from pronk.checkpoints.random import random_checkpoint

def halfway(done, total):
    if done > total / 2:
        print("halfway", flush=True)
        time.sleep(60)

convert(random_checkpoint("tiny"), Path(sys.argv[1]), sys.argv[2], progress=halfway)
"""


@pytest.mark.parametrize(("to", "name"), TARGETS)
def test_killed_process_leaves_nothing_under_the_name(tmp_path: Path, to: str, name: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / name), to]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "halfway\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    assert all(p.name.startswith(".") for p in tmp_path.iterdir())
    assert_same_weights(
        random_checkpoint("tiny"), converted(random_checkpoint("tiny"), tmp_path / name, to), exact_types=False
    )


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = random_checkpoint("tiny", "F32")
    for to, name in TARGETS:
        convert(source, tmp_path / name, to, progress=lambda *args: seen.append(args))  # type: ignore[arg-type]
        assert seen[-1] == (source.nbytes, source.nbytes)
        assert seen == sorted(seen)
        seen.clear()


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "onnx"}, "cannot convert to 'onnx', expected one of gguf, hf, meta"),
        ({"dtype": "q4_k"}, "cannot convert to dtype 'q4_k', expected one of f32, f16, bf16"),
        ({"shards": 0}, "0 shards asked for"),
        ({"shards": 2}, "--shards is for Meta's format"),
    ],
)
def test_options_that_mean_nothing(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        convert(random_checkpoint("tiny"), tmp_path / "m.gguf", **{"to": "gguf", **options})  # type: ignore[arg-type]


def test_existing_destination(tmp_path: Path) -> None:
    tiny = random_checkpoint("tiny")
    (tmp_path / "m.gguf").write_text("precious")
    with pytest.raises(CheckpointError, match="exists; choose another destination, or --overwrite"):
        convert(tiny, tmp_path / "m.gguf", "gguf")
    assert (tmp_path / "m.gguf").read_text() == "precious"
    with pytest.raises(CheckpointError, match=r"is no file, expected a file name such as .*model\.gguf"):
        convert(tiny, tmp_path, "gguf", overwrite=True)
    with pytest.raises(CheckpointError, match="is a file, and hf is a directory"):
        convert(tiny, tmp_path / "m.gguf", "hf", overwrite=True)
    with pytest.raises(CheckpointError, match="does not exist; make it first"):
        convert(tiny, tmp_path / "no/where/m.gguf", "gguf")
    (tmp_path / "empty").mkdir()
    convert(tiny, tmp_path / "empty", "hf")


@pytest.mark.parametrize("extra", ["", "config.json"])
def test_directory_that_is_more_than_a_model_is_never_overwritten(tmp_path: Path, extra: str) -> None:
    home = tmp_path / "home"
    (home / "letters").mkdir(parents=True)
    if extra:
        (home / extra).write_text("{}")
    with pytest.raises(CheckpointError, match="is not just a model"):
        convert(random_checkpoint("tiny"), home, "hf", overwrite=True)
    assert (home / "letters").is_dir()


def test_source_is_never_its_own_destination(tmp_path: Path) -> None:
    tiny = random_checkpoint("tiny")
    for to, name in TARGETS:
        source = converted(tiny, tmp_path / name, to)
        with pytest.raises(CheckpointError, match="is, holds or lies in the model that is read"):
            convert(source, tmp_path / name, to, overwrite=True)  # type: ignore[arg-type]
    inside = open_path(tmp_path / "hf")
    with pytest.raises(CheckpointError, match="is, holds or lies in"):
        convert(inside, tmp_path / "hf" / "meta", "meta")
    with pytest.raises(CheckpointError, match="is, holds or lies in"):
        convert(open_path(tmp_path / "m.gguf"), tmp_path, "hf", overwrite=True)
    (tmp_path / "link.gguf").symlink_to(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match="is, holds or lies in"):
        convert(open_path(tmp_path / "link.gguf"), tmp_path / "m.gguf", "gguf", overwrite=True)


def test_full_disk_is_seen_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(CheckpointError, match=r"needs 0\.0 GB and 0\.0 GB are free there; free some"):
        convert(random_checkpoint("tiny"), tmp_path / "m.gguf", "gguf")
    assert list(tmp_path.iterdir()) == []


# --- the verb ---


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "random:tiny:Q4_K_M", str(tmp_path / "m.gguf"), "--to", "gguf", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    size = random_checkpoint("tiny", "Q4_K_M").nbytes
    kinds = ["Q4_K", "Q6_K", "Q5_K"]
    assert done == {"path": str(tmp_path / "m.gguf"), "format": "gguf", "types": kinds, "bytes": size}
    assert main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "hf"), "--to", "hf", "--dtype", "f16"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hf, F16" in printed.err
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "hf"), "--to", "hf"]) == 2
    assert capsys.readouterr().err.startswith("pronk: ")
