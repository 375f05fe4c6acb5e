"""Damaged model and tokenizer files: whatever is done to one, a reader answers with a PronkError or a working model.

    python tests/support/fuzz_files.py [COUNT] [SEED]

makes COUNT damaged files (20,000 by default) out of small sound ones in every format, opens each, runs model and
tokenizer, and reports what raised anything but a PronkError or took more than a second.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root / "tests"), str(root / "src")]

from pronk.backends import make_backend
from pronk.errors import PronkError
from pronk.model.batch import make_batch
from pronk.model.llama import load_model
from pronk.tensors.types import COMPUTABLE

SLOW_SECONDS = 1.0
_TEXT = "Hello lama pronk \U0001f999 <|eot_id|> 12345\n"
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


@dataclass(frozen=True)
class Sample:
    """A sound model in a directory of its own; `target` is the file that gets damaged, `open` uses the directory."""

    name: str
    directory: Path
    target: str
    open: Callable[[Path], None]


def _use_model(path: Path) -> None:
    from pronk.checkpoints.open import open_checkpoint

    checkpoint = open_checkpoint(path)
    for tensor in checkpoint.tensors.values():
        assert tensor.load().nbytes == tensor.nbytes, tensor.name
        if tensor.type in COMPUTABLE:
            assert tensor.array().shape == tensor.shape, tensor.name
    model = load_model(checkpoint.config, checkpoint.tensors, make_backend("cpu"))
    tokens = [i % checkpoint.config.vocab_size for i in range(5)]
    batch = make_batch([(tokens, 0, range(1))], 16)
    assert model.forward(batch, model.ops.cache(checkpoint.config, 1, 16, "f32")).shape == (
        1,
        checkpoint.config.vocab_size,
    )
    _use_tokenizer(checkpoint.load_tokenizer())


def _use_tokenizer(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer.encode(_TEXT, bos=True)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    tokenizer.decode(ids)


def _use_tokenizer_file(path: Path) -> None:
    from pronk.checkpoints.open import open_tokenizer

    _use_tokenizer(open_tokenizer(path))


def make_samples(folder: Path) -> list[Sample]:
    """Every format, written by the reference writers, as small as they go."""
    from support.random_models import (
        Shape,
        llama3_scaling,
        random_llama,
        sentencepiece_model,
        write_gguf,
        write_hf,
        write_meta,
    )

    shape = Shape(dim=32, n_layers=1, n_heads=4, n_kv_heads=2, ffn_dim=32, vocab_size=288, scaling=llama3_scaling(64))
    model = random_llama(shape)
    hf = write_hf(model, folder / "hf")
    meta = write_meta(model, shape, folder / "meta", shards=2)
    for name in ("gguf", "quantized", "llama2c", "tiktoken", "spm"):
        (folder / name).mkdir()
    write_gguf(model, shape, folder / "gguf" / "model.gguf")
    _quantize(folder / "gguf" / "model.gguf", folder / "quantized" / "model.gguf")
    _write_llama2c(folder / "llama2c")
    (folder / "spm" / "tokenizer.model").write_bytes(sentencepiece_model(288))
    (folder / "tiktoken" / "tokenizer.model").write_bytes(_tiktoken())
    files = [
        *((hf, name, _use_model) for name in ("model.safetensors", "config.json", "tokenizer.json",
                                              "tokenizer_config.json", "generation_config.json")),
        *((meta, name, _use_model) for name in ("consolidated.00.pth", "consolidated.01.pth", "params.json",
                                                "tokenizer.model")),
        (folder / "gguf", "model.gguf", _use_model),
        (folder / "quantized", "model.gguf", _use_model),
        (folder / "llama2c", "model.bin", _use_model),
        (folder / "llama2c", "tokenizer.bin", _use_model),
    ]  # fmt: skip
    samples = [Sample(f"{d.name}/{target}", d, target, use) for d, target, use in files]
    return samples + [
        Sample(f"{name}/tokenizer.model", folder / name, "tokenizer.model",
               lambda d: _use_tokenizer_file(d / "tokenizer.model"))
        for name in ("tiktoken", "spm")
    ]  # fmt: skip


def _quantize(source: Path, path: Path) -> None:
    """The same file with matrices of several types; its metadata and its rope factors as they are."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            array = field.types[0] == gguf.GGUFValueType.ARRAY
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if array else None)
    kinds = ("Q4_0", "Q8_0", "Q5_1", "F16", "BF16", "Q4_1", "Q5_0")
    for index, tensor in enumerate(reader.tensors):
        kind = gguf.GGMLQuantizationType[kinds[index % len(kinds)]]
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, tensor.data)
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(tensor.data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_llama2c(directory: Path) -> None:
    dim, ffn, layers, heads, vocab, context = 8, 12, 1, 2, 260, 16
    count = vocab * dim + layers * (2 * dim + 4 * dim * dim + 3 * dim * ffn) + dim + context * dim // heads
    values = np.linspace(-1, 1, count, dtype=np.float32)
    header = struct.pack("<7i", dim, ffn, layers, heads, heads, vocab, context)
    (directory / "model.bin").write_bytes(header + values.tobytes())
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256)), b"a"]
    records = b"".join(struct.pack("<fi", -float(i), len(p)) + p for i, p in enumerate(pieces))
    (directory / "tokenizer.bin").write_bytes(struct.pack("<i", 7) + records)


def _tiktoken() -> bytes:
    import base64

    tokens = [bytes([i]) for i in range(256)] + [b"la", b"ma", b"llama"[1:3], b"lama"]
    unique = list(dict.fromkeys(tokens))
    return b"".join(b"%s %d\n" % (base64.b64encode(t), i) for i, t in enumerate(unique))


# --- damage ---


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """One change, or up to four, most of them near the start, where the structure is."""
    changed = bytearray(data)
    for _ in range(1 if random.random() < 0.5 else int(random.integers(2, 5))):
        if not changed:
            break
        reach = len(changed) if random.random() < 0.5 else min(len(changed), 2048)
        at = int(random.integers(0, reach))
        _CHANGES[int(random.integers(len(_CHANGES)))](changed, at, random)
    return bytes(changed)


def _flip(data: bytearray, at: int, random: np.random.Generator) -> None:
    data[at] ^= 1 << int(random.integers(8))


def _byte(data: bytearray, at: int, random: np.random.Generator) -> None:
    data[at] = int(random.integers(256))


def _number(data: bytearray, at: int, random: np.random.Generator) -> None:
    """A length, count or offset becomes an extreme one; sometimes aligned, where such numbers are."""
    size = int(random.choice([1, 2, 4, 8]))
    value = _NUMBERS[int(random.integers(len(_NUMBERS)))] % (1 << 8 * size)
    start = at // size * size if random.random() < 0.5 else at
    data[start : start + size] = value.to_bytes(size, "little")[: len(data) - start]


def _cut(data: bytearray, at: int, random: np.random.Generator) -> None:
    del data[at:]


def _remove(data: bytearray, at: int, random: np.random.Generator) -> None:
    del data[at : at + int(random.integers(1, 64))]


def _repeat(data: bytearray, at: int, random: np.random.Generator) -> None:
    piece = data[at : at + int(random.integers(1, 64))]
    data[at:at] = piece * int(random.integers(1, 5))


def _zero(data: bytearray, at: int, random: np.random.Generator) -> None:
    end = min(len(data), at + int(random.integers(1, 64)))
    data[at:end] = bytes(end - at)


def _digits(data: bytearray, at: int, random: np.random.Generator) -> None:
    """Text formats: a digit becomes many, or a word becomes another."""
    old, new = [
        (b"1", b"99999999999"),
        (b"2", b"-2"),
        (b"0", b"1e400"),
        (b"true", b"null"),
        (b'"', b"\\"),
        (b"{", b"["),
    ][int(random.integers(6))]
    found = data.find(old, at)
    if found >= 0:
        data[found : found + len(old)] = new


_CHANGES = (_flip, _byte, _number, _number, _cut, _remove, _repeat, _zero, _digits)


# --- running ---


@dataclass(frozen=True)
class Outcome:
    sample: str
    number: int
    seconds: float
    error: BaseException | None  # None: it opened; a PronkError: it was refused; anything else: a fault of ours


def attack(samples: list[Sample], count: int, seed: int, scratch: Path) -> Iterator[Outcome]:
    """Damage each sample in turn, `count` times in all. Case `number` depends on the seed and the number only."""
    for number in range(count):
        sample = samples[number % len(samples)]
        random = np.random.default_rng([seed, number])
        work = scratch / sample.directory.name
        if not work.exists():
            shutil.copytree(sample.directory, work)
        sound = (sample.directory / sample.target).read_bytes()
        # a new file each time: one that was mapped is not changed under its readers
        (work / sample.target).unlink(missing_ok=True)
        (work / sample.target).write_bytes(damaged(sound, random))
        start, error = time.perf_counter(), None
        try:
            sample.open(work)
        except Exception as raised:
            error = raised
        seconds = time.perf_counter() - start
        (work / sample.target).unlink()
        (work / sample.target).write_bytes(sound)
        yield Outcome(sample.name, number, seconds, error)


def main(arguments: list[str]) -> int:
    count, seed = (int(a) for a in (*arguments, *("20000", "0")[len(arguments) :]))
    faults, results = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        samples = make_samples(Path(folder) / "sound")
        for outcome in attack(samples, count, seed, Path(folder)):
            refused = isinstance(outcome.error, PronkError)
            results["refused" if refused else "opened" if outcome.error is None else "FAULT"] += 1
            if (outcome.error and not refused) or outcome.seconds > SLOW_SECONDS:
                faults += 1
                print(json.dumps({
                    "case": outcome.number, "sample": outcome.sample, "seconds": round(outcome.seconds, 3),
                    "error": f"{type(outcome.error).__name__}: {outcome.error}"[:300],
                }), flush=True)  # fmt: skip
    print(f"{count} files: {dict(results)}, {faults} faults or slow", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
