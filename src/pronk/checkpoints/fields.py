"""Typed reading of a mapping that somebody else wrote: JSON objects and GGUF metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pronk.errors import CheckpointError


@dataclass(frozen=True)
class Fields:
    """Values by key, with a name for messages (a path). A key whose value is null counts as absent.

    A getter returns `default` for an absent key, or raises CheckpointError where there is no default; it raises
    CheckpointError for a value of another kind.
    """

    values: Mapping[str, object]
    where: str

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise self.wrong(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def child(self, key: str) -> Fields:
        """The object at a key; an empty one where it is absent."""
        value = self._value(key, {})
        if not isinstance(value, Mapping):
            raise self.wrong(key, "an object")
        return Fields(value, f"{self.where}, {key}")

    def head_dim(self, key: str, dim: int, n_heads: int) -> int:
        """The width of a head: the key's value, or the model's width shared out among the heads."""
        if self.has(key):
            return self.integer(key)
        if n_heads < 1 or dim % n_heads:
            raise CheckpointError(
                f"{self.where}: the model's width {dim} is no multiple of {n_heads} heads, and there is no {key}"
            )
        return dim // n_heads

    def refuse_unless(self, key: str, *neutral: object) -> None:
        """Raises CheckpointError unless the key is absent or has one of the values under which it changes nothing."""
        value = self.values.get(key)
        same = (_same(value, n) for n in neutral)
        if value is not None and not any(same):
            raise self.unsupported(key)

    def unsupported(self, key: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where}: {key} is {shown(self.values.get(key))}, which changes what the model computes "
            "in a way that is not supported; expected a plain Llama"
        )

    def wrong(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {key} is {shown(self.values.get(key))}, expected {expected}")

    def _value(self, key: str, default: object) -> object:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            raise CheckpointError(f"{self.where} has no {key}, which a Llama's config must have")
        return default


def _same(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def shown(value: object) -> str:
    """A value for a message: never a whole vocabulary, and never longer than a line."""
    if isinstance(value, Mapping | list | tuple):
        return f"{'an object' if isinstance(value, Mapping) else 'a list'} of {len(value)} values"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"
    return repr(value)[:80]


def shortest(value: float) -> float:
    """A float32 as the shortest decimal that means it: 9.999999747378752e-06 was written as 1e-05.

    GGUF keeps float32 where params.json and config.json have decimals; this makes the same model have the same config.
    """
    if not math.isfinite(value) or abs(value) > 3e38:
        return value
    return float(str(np.float32(value)))
