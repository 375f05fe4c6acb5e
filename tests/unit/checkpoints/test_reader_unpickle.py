"""Our unpickler and the archives around it: what torch writes opens, what attacks is refused and never runs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pronk.checkpoints import torch_file, unpickle
from pronk.checkpoints.unpickle import StoredTensor
from pronk.errors import CheckpointError

torch = pytest.importorskip("torch", reason="the torch extra is not installed")


def _save(path: Path, value: Any, **how: Any) -> Path:
    torch.save(value, path, **how)
    return path


def _archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, how: int = zipfile.ZIP_STORED) -> Path:
    """An archive as torch lays it out, around a pickle of our own making."""
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("m/data.pkl", data)
        archive.writestr("m/byteorder", "little")
        for key, content in (storages or {}).items():
            archive.writestr(f"m/data/{key}", content)
    return path


# --- what torch writes ---


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_torch_save_are_the_files_own_bytes(protocol: int, tmp_path: Path) -> None:
    state = {
        "f32": torch.randn(3, 5), "f16": torch.randn(4, 2).half(), "bf16": torch.randn(7).bfloat16(),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)), "one column": torch.randn(6, 1),
    }  # fmt: skip
    path = _save(tmp_path / "x.pth", OrderedDict(state), pickle_protocol=protocol)
    entries = torch_file.read_file(path)
    assert list(entries) == list(state)
    for name, value in state.items():
        tensor = entries[name].lazy(name)
        assert tensor.shape == tuple(value.shape)
        assert tensor.mapped
        assert tensor.type.name.lower() == str(value.dtype).replace("torch.", "").replace("loat", "")
        np.testing.assert_array_equal(tensor.load(), value.detach().view(torch.uint8).numpy().reshape(-1))


def test_views_of_one_storage_and_a_modules_state_dict(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    entries = torch_file.read_file(_save(tmp_path / "x.pth", {"a": whole, "b": whole[2:4]}))
    np.testing.assert_array_equal(entries["b"].lazy("b").load().view(np.float32), np.arange(8, 16, dtype=np.float32))
    module = torch.nn.Linear(3, 2)  # its state_dict has attributes, which a pickle sets with BUILD
    entries = torch_file.read_file(_save(tmp_path / "y.pth", module.state_dict()))
    assert {name: entry.shape for name, entry in entries.items()} == {"weight": (2, 3), "bias": (2,)}


def test_types_that_no_weight_has_are_refused_only_where_they_are_needed(tmp_path: Path) -> None:
    entries = torch_file.read_file(_save(tmp_path / "x.pth", {"i": torch.arange(3), "w": torch.ones(2)}))
    entries["w"].lazy("w")
    with pytest.raises(CheckpointError, match="'i' is in a LongStorage, expected FloatStorage"):
        entries["i"].lazy("i")


def test_transposed_and_legacy_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"strides \(1, 3\).*\.contiguous\(\)"):
        torch_file.read_file(_save(tmp_path / "x.pth", {"t": torch.ones(2, 3).t()[:, :2].t().t()}))
    legacy = _save(tmp_path / "y.pth", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1\.6.*torch\.save it again"):
        torch_file.read_file(legacy)
    tar = tmp_path / "z.pth"
    tar.write_bytes(bytes(257) + b"ustar\x0000" + bytes(1000))
    with pytest.raises(CheckpointError, match=r"before 1\.6"):
        torch_file.read_file(tar)


# --- what attacks ---

_RAN: list[object] = []


def _run(*args: object) -> None:
    _RAN.append(args)


class _Attack:
    def __init__(self, function: Any, *args: object) -> None:
        self.how = (function, args)

    def __reduce__(self) -> Any:
        return self.how


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "attack",
    [
        _Attack(os.system, "echo attacked"), _Attack(_run, 1), _Attack(eval, "1"), _Attack(torch.load, "x"),
        _Attack(getattr, "a", "b"), _Attack(OrderedDict, [["a", 1]]), _Attack(bytearray, 1 << 40),
    ],
    ids=["os.system", "a function", "eval", "torch.load", "getattr", "OrderedDict", "bytearray"],
)  # fmt: skip
def test_a_call_is_refused_and_never_made(attack: _Attack, protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({"weight": attack}, protocol)
    with pytest.raises(CheckpointError) as error:
        torch_file.read_file(_archive(tmp_path / "x.pth", data))
    assert not _RAN
    assert "x.pth" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_refusal_names_what_was_asked_for() -> None:
    with pytest.raises(CheckpointError, match=r"asks for 'posix\.system', which no dictionary of tensors needs"):
        unpickle.unpickle(pickle.dumps(_Attack(os.system, "x"), 2))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02" + b"(" * 100_000, "ends at byte"),
        (b"\x80\x02" + b"]" * 310_000 + b".", "more than 300000 steps"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "ends at byte"),
        (b"\x80\x02]r\xff\xff\xff\xff.", None),
        (b"\x80\x02h\x05.", "nothing was remembered as 5"),
        (b"\x80\x02j\xff\xff\xff\xff.", "nothing was remembered as 4294967295"),
        (b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".", "a number has 255 bytes"),
        (b"\x80\x02.", "finds nothing on the stack"),
        (b"\x80\x02(.", "finds nothing on the stack"),
        (b"\x80\x02t.", "finds no mark"),
        (b"\x80\x02}K\x01K\x02s.", "a int as a key"),
        (b"\x80\x02}(X\x01\x00\x00\x00aNX\x01\x00\x00\x00aNu.", "'a' is there twice"),
        (b"\x80\x02}X\x01\x00\x00\x00a(u.", "no dictionary"),
        (b"\x80\x02NNR.", "no function"),
        (b"\x80\x02NNb.", "no dictionary"),
        (b"\x80\x02NQ.", "no storage"),
        (b"\x80\x02NNa.", "no list"),
        (b"\x80\x02cos\nsystem\n.", r"asks for 'os\.system'"),
        (b"\x80\x02c" + b"a" * 300, "does not end"),
        (b"\x80\x02c\xff\n\xff\n.", "not UTF-8"),
        (b"\x80\x02NN\x93.", "asks for 'something'"),
        (b"\x80\x09.", "protocol 9"),
        (b"S'text'\n.", "opcode b'S'"),
        (b"\x80\x02i os\nsystem\n.", "opcode b'i'"),
        (b"\x80\x02\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "opcode"),
        (b"\x80\x02\x82\x01.", "opcode"),
        (b"", "ends at byte 0"),
    ],
)
def test_hostile_programs_end_at_once(program: bytes, message: str | None) -> None:
    if message is None:
        assert unpickle.unpickle(program) == []
        return
    with pytest.raises(CheckpointError, match=message):
        unpickle.unpickle(program)


def test_a_structure_nested_without_end_is_neither_built_nor_printed(tmp_path: Path) -> None:
    deep = b"\x80\x02}X\x01\x00\x00\x00a" + b")" + b"\x85" * 250_000 + b"s."
    with pytest.raises(CheckpointError, match="'a' is a tuple, expected a tensor"):
        torch_file.read_file(_archive(tmp_path / "deep.pth", deep))
    wide = b"\x80\x02}X\x01\x00\x00\x00a(]q\x00" + b"h\x00h\x00\x86q\x00" * 50_000 + b"ts."
    with pytest.raises(CheckpointError, match="'a' is a tuple, expected a tensor"):
        torch_file.read_file(_archive(tmp_path / "wide.pth", wide))
    itself = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."
    with pytest.raises(CheckpointError, match="'a' is a dict, expected a tensor"):
        torch_file.read_file(_archive(tmp_path / "self.pth", itself))


def test_a_program_that_is_too_long_is_not_begun() -> None:
    with pytest.raises(CheckpointError, match="expected at most"):
        unpickle.unpickle(bytes(unpickle.MAX_BYTES + 1))


# --- tensors that lie about their storage ---


def _tensor_program(
    offset: int = 0, shape: tuple[int, ...] = (2, 2), stride: tuple[int, ...] = (2, 1), count: int = 4, key: str = "0"
) -> bytes:
    def number(value: int) -> bytes:
        size = max(1, (value.bit_length() + 8) // 8)
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def group(*items: bytes) -> bytes:
        return b"(" + b"".join(items) + b"t"

    storage = group(text("storage"), b"ctorch\nFloatStorage\n", text(key), text("cpu"), number(count)) + b"Q"
    args = group(storage, number(offset), group(*map(number, shape)), group(*map(number, stride)), b"\x89", b"}")
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + args + b"Rs."


def test_the_handmade_program_is_a_tensor() -> None:
    value = unpickle.unpickle(_tensor_program())
    assert isinstance(value, dict)
    assert isinstance(value["w"], StoredTensor)
    assert value["w"].dense


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"offset": 1}, "reaches beyond the 4 values of its storage"),
        ({"offset": -1}, "no whole numbers"),
        ({"offset": 1 << 60}, "no whole numbers"),
        ({"count": 5}, "storage of 16 bytes, expected 5 values"),
        ({"count": 1 << 40}, "storage of 16 bytes"),
        ({"shape": (4, 2)}, "reaches beyond"),
        ({"shape": (1 << 40, 1 << 40), "stride": (1 << 40, 1)}, "reaches beyond"),
        ({"shape": (-2, 2)}, "no whole numbers"),
        ({"stride": (1, 2)}, "has strides"),
        ({"stride": (0, 0)}, "has strides"),
        ({"stride": (2,)}, "2 sizes and 1 strides"),
        ({"shape": (1,) * 9, "stride": (1,) * 9}, "9 sizes"),
        ({"key": "7"}, "storage '7', which is not there"),
        ({"key": "../0"}, "which is not there"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(how: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = _archive(tmp_path / "x.pth", _tensor_program(**how), {"0": bytes(16)})
    with pytest.raises(CheckpointError, match=message):
        torch_file.read_file(path)


# --- archives ---


def test_archives_that_are_not_torchs_are_refused(tmp_path: Path) -> None:
    program = _tensor_program()
    with pytest.raises(CheckpointError, match="compressed"):
        torch_file.read_file(_archive(tmp_path / "a.pth", program, {"0": bytes(16)}, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(CheckpointError, match=r"without one data\.pkl"):
        torch_file.read_file(tmp_path / "b.pth")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", program)
        archive.writestr("m/byteorder", "big")
    (tmp_path / "c.pth").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="big-endian"):
        torch_file.read_file(tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        torch_file.read_file(_archive(tmp_path / "d.pth", b"\x80\x02]."))


def test_an_archive_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = _save(tmp_path / "x.pth", {"a": torch.randn(8, 8)}).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(data), 13):
        path.unlink(missing_ok=True)
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            torch_file.read_file(path)
