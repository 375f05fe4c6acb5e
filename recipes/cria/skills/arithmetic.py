"""Small sums: one- and two-digit addition and subtraction, one-digit products, asked in words and in signs.

A pair of numbers is held out for both orders of a sum. A product of one digit is held out in one order only: nobody
can tell seven times eight who never saw it in any order.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pronk.text.messages import Message
from recipes.cria.conversation import Exchange, Language, Split

Sign = Literal["+", "-", "*"]


@dataclass(frozen=True)
class Sum:
    left: int
    sign: Sign
    right: int

    @property
    def result(self) -> int:
        if self.sign == "+":
            return self.left + self.right
        return self.left - self.right if self.sign == "-" else self.left * self.right

    @property
    def split(self) -> Split:
        """Training never sees one in eight. What has a zero or a one in it, or a digit twice, is there for all."""
        left, right = self.left, self.right
        if self.sign == "*" and (left < 2 or left >= right):
            return "train"
        if self.sign == "+":
            left, right = sorted((left, right))
        key = f"{left}{self.sign}{right}".encode()
        return "held_out" if zlib.crc32(key) % 8 == 0 else "train"


# {a} and {b} are the numbers. Signs as people type them.
_ASK: dict[tuple[Language, Sign], tuple[str, ...]] = {
    ("en", "+"): (
        "Could you tell me how much {a} + {b} is?", "What do {a} and {b} make together?", "So, {a} plus {b}?",
        "What is {a} + {b}?", "{a} + {b} = ?", "{a}+{b}", "{a} + {b}", "{a} plus {b}", "What is {a} plus {b}?",
        "Add {a} and {b}.", "How much is {a} + {b}?", "Calculate {a} + {b}.", "What's {a}+{b}?", "{a}+{b}=",
        "Can you add {a} and {b}?", "Tell me the sum of {a} and {b}.", "Please compute {a} + {b}.",
        "I have {a} apples and get {b} more. How many apples do I have?",
        "There are {a} llamas in the field and {b} in the barn. How many llamas are there?",
    ),
    ("en", "-"): (
        "Could you tell me how much {a} - {b} is?", "What is left of {a} minus {b}?", "So, {a} minus {b}?",
        "What is {a} - {b}?", "{a} - {b} = ?", "{a}-{b}", "{a} - {b}", "{a} minus {b}", "What is {a} minus {b}?",
        "Subtract {b} from {a}.", "How much is {a} - {b}?", "Calculate {a} - {b}.", "What's {a}-{b}?", "{a}-{b}=",
        "Take {b} away from {a}.", "Please compute {a} - {b}.",
        "I have {a} apples and give away {b}. How many are left?",
        "There were {a} birds and {b} flew away. How many are left?",
    ),
    ("en", "*"): (
        "Could you tell me how much {a} times {b} is?", "So, {a} times {b}?", "Give me {a} * {b}.",
        "What is {a} * {b}?", "{a} * {b} = ?", "{a}*{b}", "{a} times {b}", "What is {a} times {b}?", "{a} x {b}",
        "Multiply {a} by {b}.", "How much is {a} x {b}?", "Calculate {a} * {b}.", "What's {a} times {b}?",
        "Please compute {a} x {b}.", "There are {a} bags with {b} apples each. How many apples are there?",
    ),
    ("zh", "+"): (
        "你知道{a}+{b}是多少吗？", "{a}加上{b}呢？", "告诉我{a}加{b}的结果。",
        "{a}+{b}等于多少？", "{a}+{b}=？", "{a}+{b}", "{a}加{b}", "{a}加{b}等于几？", "{a}加{b}是多少？",
        "算一下{a}+{b}。", "请计算{a}加{b}。", "{a} + {b}", "{a}和{b}的和是多少？", "帮我算{a}+{b}。", "{a}+{b}=",
        "我有{a}个苹果，又得到{b}个，一共有几个？", "草地上有{a}只羊驼，又来了{b}只，一共有几只？",
    ),
    ("zh", "-"): (
        "你知道{a}-{b}是多少吗？", "{a}减{b}呢？", "告诉我{a}减{b}的结果。",
        "{a}-{b}等于多少？", "{a}-{b}=？", "{a}-{b}", "{a}减{b}", "{a}减{b}等于几？", "{a}减{b}是多少？",
        "算一下{a}-{b}。", "请计算{a}减{b}。", "{a} - {b}", "{a}减去{b}是多少？", "帮我算{a}-{b}。", "{a}-{b}=",
        "我有{a}个苹果，送出{b}个，还剩几个？", "树上有{a}只鸟，飞走了{b}只，还剩几只？",
    ),
    ("zh", "*"): (
        "你知道{a}×{b}是多少吗？", "{a}乘{b}呢？", "告诉我{a}乘{b}的结果。",
        "{a}×{b}等于多少？", "{a}*{b}=？", "{a}×{b}", "{a}乘{b}", "{a}乘以{b}等于几？", "{a}乘{b}是多少？",
        "算一下{a}×{b}。", "请计算{a}乘{b}。", "{a} * {b}", "帮我算{a}乘以{b}。",
        "有{a}个袋子，每个袋子里有{b}个苹果，一共有几个？",
    ),
}  # fmt: skip
_SIGNS = {"+": "+", "-": "-", "*": "×"}


def exchange(rng: random.Random, language: Language, split: Split) -> Exchange:
    made = _draw(rng, split)
    phrasings = _ASK[language, made.sign]
    phrasing = rng.choice(phrasings)
    if made.result < 0 and phrasing.endswith(
        (" left?", "还剩几个？", "还剩几只？")
    ):  # nobody gives away more than he has
        phrasing = phrasings[0]
    asked = phrasing.format(a=made.left, b=made.right)
    end = "。" if any("一" <= letter <= "鿿" for letter in asked) else "."  # signs alone have no language
    answer = f"{made.left} {_SIGNS[made.sign]} {made.right} = {made.result}{end}"
    return Exchange(
        "arithmetic", language, (Message("user", asked), Message("assistant", answer)), expect={"result": made.result}
    )


def _draw(rng: random.Random, split: Split) -> Sum:
    while True:
        made = rng.choices(_KINDS, weights=_WEIGHTS)[0](rng)
        if made.split == split:
            return made


def _addition(rng: random.Random) -> Sum:
    return Sum(_number(rng), "+", _number(rng))


def _subtraction(rng: random.Random) -> Sum:
    """Mostly with a result above zero, as people ask."""
    left, right = _number(rng), _number(rng)
    if left < right and rng.random() < 0.8:
        left, right = right, left
    return Sum(left, "-", right)


def _product(rng: random.Random) -> Sum:
    return Sum(rng.randrange(10), "*", rng.randrange(10))


def _number(rng: random.Random) -> int:
    return rng.randrange(10) if rng.random() < 0.25 else rng.randrange(100)


_KINDS: tuple[Callable[[random.Random], Sum], ...] = (_addition, _subtraction, _product)
_WEIGHTS = (0.45, 0.43, 0.12)
