"""The numbers of the recipe: how large, how long, what share of what. `FULL` makes cria; `SMOKE` tries every stage in
seconds, and makes a model that knows nothing.

Token counts are of whole conversations, prompts included. The shares are of exchanges, not of tokens: a tool call
brings its tool list along, a sum is a dozen tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pronk.config import ModelConfig, RopeScaling

SPECIAL_TOKENS = 256  # Llama 3's, after the ranks


@dataclass(frozen=True)
class CorpusPlan:
    """One stage's text. `prose` is the share of plain stories, told without being asked for; `copies` that of random
    tokens which come again. `plain_loss` counts every token in the loss, otherwise only what the assistant says."""

    tokens: int
    prose: float
    copies: float
    guard: float
    tools: float
    sums: float  # many in a row: a sum is short, and takes practice
    verdicts: float  # of the guard, many under one policy
    openings: float  # a question and the first tokens of its answer
    shares: Mapping[str, float]  # of the exchanges of an ordinary conversation
    plain_loss: bool
    tool_turns: tuple[int, ...]  # requests to one toolbox: its description is most of what a tool call costs


@dataclass(frozen=True)
class StagePlan:
    """One pass over a corpus. Rates rise over `warmup` steps, and fall in a straight line to `end` of themselves."""

    name: str
    corpus: CorpusPlan
    matrix_rate: float  # Muon, for the matrices of the layers
    other_rate: float  # AdamW, for the embeddings and the norms
    warmup: int
    end: float


@dataclass(frozen=True)
class Plan:
    model: ModelConfig
    stages: tuple[StagePlan, ...]
    batch_tokens: int
    longest: int  # tokens of one conversation, at most
    tokenizer_texts: int  # exchanges that the tokenizer is trained on
    held_back_tokens: int  # that only measure the loss
    seed: int = 20261121


def _model(layers: int, vocabulary: int) -> ModelConfig:
    return ModelConfig(
        dim=256, n_layers=layers, n_heads=8, n_kv_heads=4, head_dim=32, ffn_dim=768, vocab_size=vocabulary,
        context_length=1024, rope_theta=500000.0, tied_output=True,
        rope_scaling=RopeScaling("llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                 original_context=8192),
    )  # fmt: skip


def _stages(pretrain: int, finetune: int, sharpen: int, warmup: int) -> tuple[StagePlan, ...]:
    talked = CorpusPlan(
        finetune, prose=0.02, copies=0.03, guard=0.04, tools=0.14, sums=0.03, verdicts=0.02, openings=0.55,
        shares={"stories": 0.20, "questions": 0.40, "arithmetic": 0.12, "talk": 0.28}, plain_loss=False,
        tool_turns=(3, 4, 5, 6, 7, 8),
    )  # fmt: skip
    read = replace(
        talked, tokens=pretrain, prose=0.04, copies=0.10, guard=0.08, tools=0.16, sums=0.05, verdicts=0.0, openings=0.0,
        plain_loss=True,
    )  # fmt: skip
    sharpened = replace(
        talked, tokens=sharpen, prose=0.008, copies=0.005, guard=0.01, tools=0.055, sums=0.025, verdicts=0.01,
        openings=0.72,
    )  # fmt: skip
    return (
        StagePlan("pretrain", read, matrix_rate=0.016, other_rate=0.02, warmup=warmup, end=0.75),
        StagePlan("finetune", talked, matrix_rate=0.012, other_rate=0.015, warmup=0, end=0.0),
        StagePlan("sharpen", sharpened, matrix_rate=0.006, other_rate=0.0075, warmup=20, end=0.0),
    )


FULL = Plan(
    model=_model(layers=4, vocabulary=4096),
    stages=_stages(pretrain=6_000_000, finetune=29_000_000, sharpen=12_000_000, warmup=60),
    batch_tokens=7680,
    longest=1000,
    tokenizer_texts=30_000,
    held_back_tokens=60_000,
)
SMOKE = Plan(
    model=_model(layers=2, vocabulary=1024),
    stages=_stages(pretrain=20_000, finetune=20_000, sharpen=10_000, warmup=2),
    batch_tokens=2048,
    longest=1000,
    tokenizer_texts=300,
    held_back_tokens=2_000,
)
