"""The .pth files that torch.load reads, written without torch.

Such a file is a zip archive: `data.pkl`, a pickle of names and shapes, and one uncompressed entry for each storage,
aligned to 64 bytes so that it can be mapped (pytorch: torch/serialization.py, caffe2/serialize/inline_container.cc).
The pickle is put together opcode by opcode, and holds nothing but what torch.load(weights_only=True) lets through.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pronk.tensors import types
from pronk.tensors.types import TensorType

_ALIGNMENT = 64
_PREFIX = "archive"
_STORAGES = {types.F32: "FloatStorage", types.F16: "HalfStorage", types.BF16: "BFloat16Storage"}
_ZIP64_FROM = 1 << 30  # bytes; an entry that may pass zip's 2 GiB gets the wide fields


class TorchFile:
    """A dict of tensors. Use as a context manager: leaving it well completes the file; `file` stays open."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._items: list[bytes] = []
        self._storages = 0

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            pickled = b"".join([pickle.PROTO, b"\2", pickle.EMPTY_DICT, pickle.MARK, *self._items])
            self._write("data.pkl", pickled + pickle.SETITEMS + pickle.STOP)
            self._write("byteorder", b"little")
            self._write("version", b"3\n")
        self._zip.close()  # after an error too: it would complain later, when it is collected

    def add(self, names: tuple[str, ...], shape: tuple[int, ...], type: TensorType, data: NDArray[np.uint8]) -> None:
        """Write a tensor once, under all of `names`."""
        key = str(self._storages)
        self._storages += 1
        self._write(f"data/{key}", data.data)
        self._items += [_text(name) + _tensor(key, shape, _STORAGES[type]) for name in names]

    def _write(self, name: str, data: bytes | memoryview) -> None:
        info = zipfile.ZipInfo(f"{_PREFIX}/{name}")
        size = memoryview(data).nbytes
        wide = size >= _ZIP64_FROM
        start = self._zip.start_dir + 30 + len(info.filename) + (20 if wide else 0) + 4  # where the data would begin
        gap = -start % _ALIGNMENT
        info.extra = b"FB" + struct.pack("<H", gap) + b"Z" * gap
        with self._zip.open(info, "w", force_zip64=wide) as entry:
            entry.write(data)


def _tensor(key: str, shape: tuple[int, ...], storage: str) -> bytes:
    """torch._utils._rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, OrderedDict())"""
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    identity = [_text("storage"), _global("torch", storage), _text(key), _text("cpu"), _number(math.prod(shape))]
    hooks = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = [
        _tuple(identity) + pickle.BINPERSID, _number(0), _tuple(map(_number, shape)), _tuple(map(_number, strides)),
        pickle.NEWFALSE, hooks,
    ]  # fmt: skip
    return _global("torch._utils", "_rebuild_tensor_v2") + _tuple(arguments) + pickle.REDUCE


def _text(text: str) -> bytes:
    data = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    if value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(items: object) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE  # type: ignore[arg-type]
