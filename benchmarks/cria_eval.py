"""Measures cria on held-out prompts: names, numbers, phrasings and tools that training never saw. Greedy.

usage: python benchmarks/cria_eval.py [--model cria] [--full build/cria/cria-F32.gguf] [--limit N] [--show N] [--json]

Several turns of one exchange are each asked with the right turns before them. `--show` prints wrong answers. `--full`
measures what Q4_K_M costs. `--split train` asks what training could have asked.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).parents[1]))  # the recipe is no part of the package

import pronk
from pronk.cli import main as command_line
from pronk.text.chat import read_answer
from pronk.text.messages import Answer, Message, Tool
from recipes.cria import checks
from recipes.cria.conversation import Exchange, Language, Skill, Split
from recipes.cria.corpus import prose
from recipes.cria.skills import arithmetic, guard, questions, stories, talk, tools

SEED = 7
MOST_TOKENS = 320


Draw = Callable[[random.Random, Language, Split], Exchange]


def of(skill: Skill) -> Draw:
    return lambda rng, language, split: skill.exchange(rng, language, split)


def in_own_words(rng: random.Random, language: Language, split: Split) -> Exchange:
    """A question in the one wording that no pattern yields, which no split's training has."""
    return questions.in_own_words(rng, language)


@dataclass(frozen=True)
class Test:
    """A row of the table: so many exchanges, and the share that has to be right, where there is a bar."""

    name: str
    draw: Draw
    languages: tuple[Language, ...]
    count: int
    bar: float | None


TESTS = (
    Test("stories, English", of(stories), ("en",), 200, 0.95),
    Test("stories, Chinese", of(stories), ("zh",), 200, 0.95),
    Test("questions", of(questions), ("en", "zh"), 200, 0.90),
    Test("questions like no pattern", in_own_words, ("en", "zh"), 200, None),
    Test("arithmetic", of(arithmetic), ("en", "zh"), 300, 0.95),
    Test("tool calls", of(tools), ("en", "zh"), 200, 0.90),
    Test("guard", of(guard), ("en", "zh"), 200, 0.90),
    Test("talk", of(talk), ("en", "zh"), 200, 0.80),
)
ENDS_BAR = 0.99
QUANTIZED_BAR = 1.03


@dataclass(frozen=True)
class Score:
    name: str
    right: int
    count: int
    bar: float | None

    @property
    def share(self) -> float:
        return self.right / self.count


@dataclass(frozen=True)
class Turn:
    """One answer that is asked for: the conversation before it, and the message that is right."""

    before: tuple[Message, ...]
    wanted: Message
    last: bool


def turns(exchange: Exchange) -> list[Turn]:
    """The turns that count: the calls, and the last answer."""
    found = []
    for index, message in enumerate(exchange.messages):
        last = index == len(exchange.messages) - 1
        if message.role == "assistant" and (last or message.tool_calls):
            found.append(Turn(exchange.messages[:index], message, last))
    return found


def is_right(exchange: Exchange, turn: Turn, answer: Answer) -> bool:
    if turn.wanted.tool_calls:
        return checks.call(answer, turn.wanted.tool_calls)
    return checks.CHECKS[exchange.skill](answer, exchange.expect)


def ask(llama: pronk.Llama, asked: Sequence[tuple[tuple[Message, ...], tuple[Tool, ...]]]) -> list[tuple[Answer, bool]]:
    """All answers, batched, and whether each ended by itself."""
    form = llama.chat_format
    prompts = [form.encode(messages, offered) for messages, offered in asked]
    done = llama.complete(prompts, temperature=0.0, max_tokens=MOST_TOKENS, stop_ids=tuple(form.stop_ids))
    return [
        (read_answer(form, completion.token_ids, offered), completion.finish_reason == "stop")
        for completion, (_, offered) in zip(done, asked, strict=True)
    ]


def run(llama: pronk.Llama, test: Test, split: Split, count: int, show: int) -> tuple[Score, int, int]:
    """The score, how many answers ended by themselves, and of how many."""
    rng = random.Random(f"{SEED} {test.name}")
    exchanges = [test.draw(rng, test.languages[i % len(test.languages)], split) for i in range(count)]
    work = [(number, exchange, turn) for number, exchange in enumerate(exchanges) for turn in turns(exchange)]
    answers = ask(llama, [(turn.before, exchange.tools) for _, exchange, turn in work])
    wrong: set[int] = set()
    for (number, exchange, turn), (answer, _) in zip(work, answers, strict=True):
        if not is_right(exchange, turn, answer):
            if len(wrong) < show:
                print_wrong(exchange, turn, answer)
            wrong.add(number)
    ended = sum(stopped for _, stopped in answers)
    return Score(test.name, len(exchanges) - len(wrong), len(exchanges), test.bar), ended, len(answers)


def print_wrong(exchange: Exchange, turn: Turn, answer: Answer) -> None:
    print(f"--- {exchange.skill}", file=sys.stderr)
    for message in (*turn.before, turn.wanted):
        shown = message.content if exchange.skill != "guard" else message.content[-600:]
        print(f"{message.role}: {shown} {list(message.tool_calls) or ''}", file=sys.stderr)
    print(f"SAID: {answer.content} {list(answer.tool_calls) or ''}", file=sys.stderr)


def quantized_cost(full: Path) -> float:
    """Perplexity of Q4_K_M over that of F32, on held-out stories and answers."""
    text = prose("held_out", SEED)
    with tempfile.TemporaryDirectory() as directory:
        small = Path(directory) / "cria-Q4_K_M.gguf"
        if command_line(["quantize", str(full), str(small), "--type", "Q4_K_M", "--json"]):
            raise SystemExit(f"{full} is not quantized")
        with pronk.load(str(full)) as before, pronk.load(str(small)) as after:
            return after.perplexity(text).perplexity / before.perplexity(text).perplexity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cria")
    parser.add_argument("--full", type=Path, help="the F32 file, for the cost of Q4_K_M")
    parser.add_argument("--limit", type=int, default=1000, help="exchanges of each test, at most")
    parser.add_argument("--show", type=int, default=0, help="wrong answers of each test to print")
    parser.add_argument("--only", default="", help="tests whose name has this in it")
    parser.add_argument("--split", choices=get_args(Split), default="held_out", help="train: as training has it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not any(options.only in test.name for test in TESTS):
        parser.error(f"no test has {options.only!r} in its name, expected part of {', '.join(t.name for t in TESTS)}")
    scores, ended, asked = [], 0, 0
    with pronk.load(options.model) as llama:
        for test in TESTS:
            if options.only in test.name:
                score, stopped, count = run(llama, test, options.split, min(test.count, options.limit), options.show)
                scores.append(score)
                ended, asked = ended + stopped, asked + count
    scores.append(Score("ends its turn by itself", ended, asked, ENDS_BAR))
    cost = quantized_cost(options.full) if options.full else None
    if options.json:
        print(json.dumps({"scores": [asdict(score) for score in scores], "q4_k_m_over_f32": cost}, indent=1))
        return
    print("| what | right | share | bar |\n|---|---|---|---|")
    for score in scores:
        bar = "" if score.bar is None else f"{100 * score.bar:.0f} %"
        print(f"| {score.name} | {score.right} of {score.count} | {100 * score.share:.1f} % | {bar} |")
    if cost is not None:
        print(f"| Q4_K_M, perplexity over F32 | | + {100 * (cost - 1):.2f} % | + {100 * (QUANTIZED_BAR - 1):.0f} % |")


if __name__ == "__main__":
    main()
