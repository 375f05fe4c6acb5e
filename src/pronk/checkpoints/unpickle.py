"""Reading the pickle of a PyTorch checkpoint without running it.

A pickle is a program for a small machine with a stack, and the usual machine will call anything that the program names.
This one knows the opcodes that `torch.save` writes for a dictionary of tensors, and five functions, none of which it
calls: a tensor becomes a description of where its values are. Everything else is refused by name. Time and memory are
bounded by the program's length, which is bounded.

Opcodes: CPython, `Lib/pickletools.py`. What torch writes: PyTorch, `torch/_utils.py` and `torch/serialization.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from pronk.errors import CheckpointError
from pronk.tensors import types

MAX_BYTES = 16 << 20  # Llama 3.1 405B's, the largest, has some 300 KB in each shard
MAX_STEPS = 300_000  # the same shard takes some 50,000
_MAX_DIMENSIONS = 8
_MAX_COUNT = 1 << 48


@dataclass(frozen=True)
class StorageType:
    """A kind of torch storage. `type` is None for one that no Llama's weights have."""

    name: str
    itemsize: int
    type: types.TensorType | None = None


@dataclass(frozen=True)
class Storage:
    """A run of `count` values in the member of the archive called `key`."""

    kind: StorageType
    key: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage: `offset` and `stride` count values. Not checked against anything."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dense(self) -> bool:
        """Whether the values lie in C order without gaps."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True


@dataclass(frozen=True)
class _Function:
    """A global that a pickle may name. `make` is ours; theirs is never looked up."""

    make: Callable[[tuple[object, ...]], object]


def unpickle(data: bytes) -> object:
    """What the pickle describes: dictionaries, lists, tuples, text, numbers, StoredTensor. Raises CheckpointError."""
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"its data.pkl has {len(data)} bytes, expected at most {MAX_BYTES}")
    return _Machine(data).run()


class _Mark:
    """Where on the stack a group of values begins."""


_MARK = _Mark()


def _storage_types() -> dict[str, StorageType]:
    kinds = [
        StorageType("FloatStorage", 4, types.F32),
        StorageType("HalfStorage", 2, types.F16),
        StorageType("BFloat16Storage", 2, types.BF16),
        *(StorageType(f"{n}Storage", s) for n, s in (("Double", 8), ("Long", 8), ("Int", 4), ("Short", 2))),
        *(StorageType(f"{n}Storage", s) for n, s in (("Char", 1), ("Byte", 1), ("Bool", 1), ("ComplexFloat", 8))),
    ]
    return {f"torch {kind.name}": kind for kind in kinds}


def _bad(message: str) -> CheckpointError:
    return CheckpointError(f"its data.pkl is damaged: {message}")


def _rebuild_tensor(args: tuple[object, ...]) -> object:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])"""
    storage, offset, shape, stride = args[:4] if len(args) in (6, 7) else (None,) * 4
    if not isinstance(storage, Storage):
        raise _bad("a tensor is not made of a storage, an offset, a shape and strides")
    if not _is_count(offset) or not _are_counts(shape) or not _are_counts(stride):
        raise _bad("a tensor has an offset, shape or strides that are no whole numbers")
    if len(shape) != len(stride) or len(shape) > _MAX_DIMENSIONS:
        raise _bad(f"a tensor has {len(shape)} sizes and {len(stride)} strides")
    return StoredTensor(storage, offset, shape, stride)


def _rebuild_parameter(args: tuple[object, ...]) -> object:
    """torch._utils._rebuild_parameter(tensor, requires_grad, hooks)"""
    if len(args) != 3 or not isinstance(args[0], StoredTensor):
        raise _bad("a parameter is not made of a tensor")
    return args[0]


def _ordered_dict(args: tuple[object, ...]) -> object:
    """collections.OrderedDict(), filled afterwards"""
    if args:
        raise _bad("an OrderedDict is made with arguments")
    return {}


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MAX_COUNT


def _are_counts(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(map(_is_count, value))


_GLOBALS: dict[str, object] = {
    "torch._utils _rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils _rebuild_parameter": _Function(_rebuild_parameter),
    "collections OrderedDict": _Function(_ordered_dict),
    **_storage_types(),
}


class _Machine:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(MAX_STEPS):
            opcode = self.byte()
            if opcode == 0x2E:  # STOP
                return self.pop()
            action = _ACTIONS.get(opcode)
            if action is None:
                raise CheckpointError(
                    f"its data.pkl has the opcode {bytes([opcode])!r} at byte {self.at - 1}, which no dictionary of "
                    "tensors needs; it is damaged or hostile, and was not run"
                )
            action(self)
        raise CheckpointError(f"its data.pkl has more than {MAX_STEPS} steps; it is damaged or hostile")

    # --- reading the program ---

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise _bad(f"it ends at byte {len(self.data)} within an instruction")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self, code: str) -> int:
        value: int
        (value,) = struct.unpack(code, self.take(struct.calcsize(code)))
        return value

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise _bad(f"the name at byte {self.at} does not end")
        return self.text(end - self.at, skip=1)

    def text(self, count: int, skip: int = 0) -> str:
        data = self.take(count + skip)[:count]
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise _bad(f"{data[:40]!r} is not UTF-8") from None

    # --- the stack ---

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack or self.stack[-1] is _MARK:
            raise _bad(f"the instruction before byte {self.at} finds nothing on the stack")
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[object, ...]:
        return tuple(self.pop() for _ in range(count))[::-1]

    def pop_to_mark(self) -> list[object]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise _bad(f"the instruction before byte {self.at} finds no mark on the stack")

    # --- what instructions do ---

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise _bad(f"nothing was remembered as {index}")
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        value = self.pop()
        self.memo[index] = value
        self.push(value)

    def find(self, module: object, name: object) -> None:
        key = f"{module} {name}" if isinstance(module, str) and isinstance(name, str) else ""
        if key not in _GLOBALS:
            raise CheckpointError(
                f"its data.pkl asks for {key.replace(' ', '.', 1)[:100] or 'something'!r}, which no dictionary of "
                "tensors needs; it was not run. Save plain tensors: torch.save(model.state_dict(), path)"
            )
        self.push(_GLOBALS[key])

    def reduce(self) -> None:
        function, args = self.pop_many(2)
        if not isinstance(function, _Function) or not isinstance(args, tuple):
            raise _bad("it calls something that is no function")
        self.push(function.make(args))

    def build(self) -> None:
        """An OrderedDict's attributes: `_metadata` of a module's state_dict. It means nothing to us."""
        target, _ = self.pop_many(2)
        if not isinstance(target, dict):
            raise _bad("it sets attributes of something that is no dictionary")
        self.push(target)

    def set_items(self, values: list[object]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(values) % 2:
            raise _bad("it sets items of something that is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):
                raise _bad(f"a dictionary has a {type(key).__name__} as a key, expected text")
            if key in target:
                raise _bad(f"the name {key[:100]!r} is there twice")
            target[key] = value
        self.push(target)

    def append(self, values: list[object]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            raise _bad("it appends to something that is no list")
        target += values
        self.push(target)

    def storage(self) -> None:
        """("storage", its type, key, device, count of values), as torch's persistent_id has it"""
        value = self.pop()
        if not isinstance(value, tuple) or len(value) != 5 or value[0] != "storage":
            raise _bad("a reference is no storage")
        _, kind, key, _, count = value
        if not isinstance(kind, StorageType) or not isinstance(key, str) or not _is_count(count):
            raise _bad("a storage has no type, name and size")
        self.push(Storage(kind, key, count))

    def long(self) -> None:
        size = self.byte()
        if size > 8:
            raise _bad(f"a number has {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def frame(self) -> None:
        """How many bytes follow: a help for reading from a pipe."""
        self.take(8)

    def protocol(self) -> None:
        version = self.byte()
        if not 2 <= version <= 5:
            raise CheckpointError(f"its data.pkl has protocol {version}, expected 2 to 5")


_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    ord(code): action
    for code, action in {
        "\x80": _Machine.protocol,  # PROTO
        "\x95": _Machine.frame,  # FRAME
        "(": lambda m: m.push(_MARK),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push(m.number("<i")),  # BININT
        "K": lambda m: m.push(m.byte()),
        "M": lambda m: m.push(m.number("<H")),
        "\x8a": _Machine.long,  # LONG1
        "G": lambda m: m.push(m.number(">d")),  # BINFLOAT
        "X": lambda m: m.push(m.text(m.number("<I"))),  # BINUNICODE
        "\x8c": lambda m: m.push(m.text(m.byte())),
        "}": lambda m: m.push({}),
        "]": lambda m: m.push([]),
        ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(m.pop_to_mark())),
        "\x85": lambda m: m.push(m.pop_many(1)),  # TUPLE1 to TUPLE3
        "\x86": lambda m: m.push(m.pop_many(2)),
        "\x87": lambda m: m.push(m.pop_many(3)),
        "u": lambda m: m.set_items(m.pop_to_mark()),
        "s": lambda m: m.set_items(list(m.pop_many(2))),
        "e": lambda m: m.append(m.pop_to_mark()),
        "a": lambda m: m.append(list(m.pop_many(1))),
        "q": lambda m: m.put(m.byte()),  # BINPUT, LONG_BINPUT, MEMOIZE
        "r": lambda m: m.put(m.number("<I")),
        "\x94": lambda m: m.put(len(m.memo)),
        "h": lambda m: m.get(m.byte()),
        "j": lambda m: m.get(m.number("<I")),
        "c": lambda m: m.find(m.line(), m.line()),  # GLOBAL
        "\x93": lambda m: m.find(*m.pop_many(2)),
        "R": _Machine.reduce,
        "b": _Machine.build,
        "Q": _Machine.storage,  # BINPERSID
    }.items()
}
