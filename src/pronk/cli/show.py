"""pronk show: what a model is, before anybody loads it."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pronk.cli import options
from pronk.errors import ChatFormatError, TokenizerError

if TYPE_CHECKING:
    from pronk.checkpoints.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_model(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--ctx", type=options.positive, help="tokens of context to reckon memory for")
    options.add_kv_type(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from pronk.checkpoints.open import open_checkpoint

    checkpoint = open_checkpoint(options.local(args.model))
    facts = describe(checkpoint, args.ctx, args.kv_type)
    if args.tensors:
        facts["tensors"] = [
            {"name": t.name, "shape": list(t.shape), "type": t.type.name, "bytes": t.nbytes}
            for t in checkpoint.tensors.values()
        ]
    if args.json:
        options.print_json(facts)
    else:
        _print(facts)
    return 0


def describe(checkpoint: Checkpoint, context: int | None, kv_type: str) -> dict[str, Any]:
    """All that `pronk show` says, as JSON's types; sizes in bytes."""
    from pronk.engine.config import engine_config
    from pronk.model.memory import memory_estimate

    config = checkpoint.config
    chosen = engine_config(config, context=context).context
    memory = memory_estimate(config, checkpoint.tensors, chosen, kv_type)
    return {
        "name": checkpoint.name or checkpoint.path.name,
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "parameters": config.parameter_count(),
        "bytes": checkpoint.nbytes,
        "types": dict(Counter(t.type.name for t in checkpoint.tensors.values()).most_common()),
        "config": asdict(config),
        **_text_facts(checkpoint),
        "memory": {"context": chosen, "kv_type": kv_type, **asdict(memory), "total": memory.total},
    }


def _text_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """The vocabulary and the chat format; a model may well have neither, which is a fact about it."""
    from pronk.text.chat import chat_format

    try:
        tokenizer = checkpoint.load_tokenizer()
    except TokenizerError as error:
        return {"tokenizer": None, "chat_format": None, "note": str(error)}
    facts = {
        "tokenizer": {
            "tokens": tokenizer.vocab_size,
            "bos": tokenizer.bos_id,
            "stop": {tokenizer.token_text(i): i for i in sorted(tokenizer.stop_ids)},
        }
    }
    try:
        return {**facts, "chat_format": chat_format(tokenizer, checkpoint.chat_template).name}
    except ChatFormatError:
        return {**facts, "chat_format": None}


def _print(facts: dict[str, Any]) -> None:
    from pronk.cli.progress_bar import human_bytes

    config, memory = facts["config"], facts["memory"]
    rope = f"theta {config['rope_theta']:g}"
    if scaling := config["rope_scaling"]:
        rope += f", {scaling['kind']} scaling" + (f" x{scaling['factor']:g}" if scaling["kind"] != "factors" else "")
    lines = {
        "model": facts["name"],
        "format": facts["format"],
        "parameters": f"{facts['parameters'] / 1e9:.3f} B" if facts["parameters"] > 1e8 else f"{facts['parameters']:,}",
        "size": f"{human_bytes(facts['bytes'])}, {facts['bytes'] * 8 / facts['parameters']:.2f} bits a weight",
        "types": ", ".join(f"{name} x{count}" for name, count in facts["types"].items()),
        "shape": f"width {config['dim']}, {config['n_layers']} layers, {config['n_heads']} heads of"
        f" {config['head_dim']} on {config['n_kv_heads']}, feed-forward {config['ffn_dim']}",
        "context": f"{config['context_length']} tokens, rotary {rope}",
        "vocabulary": f"{config['vocab_size']} tokens" + (", tied output" if config["tied_output"] else ""),
        "stops at": ", ".join((facts["tokenizer"] or {}).get("stop", {})) or "-",
        "chat format": facts["chat_format"] or "none; use pronk complete, or name one with --chat-format",
        "memory": f"{human_bytes(memory['total'])} at a context of {memory['context']}:"
        f" weights {human_bytes(memory['weights'])},"
        f" key/value cache {human_bytes(memory['kv'])}, work {human_bytes(memory['activations'])}",
    }
    if note := facts.get("note"):
        lines["note"] = note
    for name, value in lines.items():
        print(f"{name:<12} {value}")
    for tensor in facts.get("tensors", ()):
        print(f"{tensor['name']:<44} {tensor['type']:<6} {' x '.join(map(str, tensor['shape']))}")
