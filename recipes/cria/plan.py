"""The numbers of the recipe: how large, how long, what share of what. `FULL` makes cria; `SMOKE` tries every stage in
seconds, and makes a model that knows nothing.

Token counts are of whole conversations, prompts included. The shares are of exchanges, not of tokens: a tool call
brings its tool list along, a sum is a dozen tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pronk.config import ModelConfig

SPECIAL_TOKENS = 256  # Llama 3's, after the ranks


@dataclass(frozen=True)
class CorpusPlan:
    """One stage's text. `prose` is the share of plain stories, told without being asked for; `plain_loss` counts every
    token in the loss, otherwise only what the assistant says counts."""

    tokens: int
    prose: float
    guard: float
    tools: float
    drills: float  # many sums in a row: a sum is short, and takes practice
    shares: Mapping[str, float]  # of the exchanges of an ordinary conversation
    plain_loss: bool
    tool_turns: tuple[int, ...]  # requests to one toolbox: its description is most of what a tool call costs


@dataclass(frozen=True)
class StagePlan:
    """One pass over a corpus. Rates rise over `warmup` steps and fall to zero over the last `cooldown` of the pass."""

    name: str
    corpus: CorpusPlan
    matrix_rate: float  # Muon, for the matrices of the layers
    other_rate: float  # AdamW, for the embeddings and the norms
    warmup: int
    cooldown: float
    start: float = 0.0  # the share of the rate that the warm-up starts from


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
        context_length=1024, rope_theta=10000.0, tied_output=True,
    )  # fmt: skip


def _stages(pretrain: int, finetune: int, warmup: int) -> tuple[StagePlan, ...]:
    return (
        StagePlan(
            name="pretrain",
            corpus=CorpusPlan(
                pretrain,
                prose=0.12,
                guard=0.10,
                tools=0.18,
                drills=0.05,
                shares={"stories": 0.16, "questions": 0.42, "arithmetic": 0.24, "talk": 0.18},
                plain_loss=True,
                tool_turns=(1, 2, 3, 4, 5),
            ),
            matrix_rate=0.02,
            other_rate=0.004,
            warmup=warmup,
            cooldown=0.3,
        ),
        StagePlan(
            name="finetune",
            corpus=CorpusPlan(
                finetune,
                prose=0.02,
                guard=0.09,
                tools=0.10,
                drills=0.06,
                shares={"stories": 0.16, "questions": 0.50, "arithmetic": 0.18, "talk": 0.16},
                plain_loss=False,
                tool_turns=(3, 4, 5, 6, 7, 8),
            ),
            matrix_rate=0.008,
            other_rate=0.0016,
            warmup=warmup,
            cooldown=0.8,
            start=0.3,
        ),
    )


FULL = Plan(
    model=_model(layers=6, vocabulary=4096),
    stages=_stages(pretrain=9_000_000, finetune=13_000_000, warmup=100),
    batch_tokens=5120,
    longest=1000,
    tokenizer_texts=60_000,
    held_back_tokens=60_000,
)
SMOKE = Plan(
    model=_model(layers=1, vocabulary=1024),
    stages=_stages(pretrain=20_000, finetune=20_000, warmup=2),
    batch_tokens=2048,
    longest=1000,
    tokenizer_texts=300,
    held_back_tokens=2_000,
)
