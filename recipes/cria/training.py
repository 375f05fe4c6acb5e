"""One pass over a corpus: batches, rates, checkpoints and the log.

Everything random follows from the plan's seed, so a run that was killed goes on from its last checkpoint as if nothing
had happened. Conversations of like length share a small batch, for little padding; one step sums several small
batches of different lengths, for a mixed gradient.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recipes.cria import together
from recipes.cria.corpus import Corpus
from recipes.cria.muon import Muon
from recipes.cria.network import Network
from recipes.cria.plan import Plan, StagePlan

_SMALL_BATCH = 1280  # tokens, padding included
_ROUND = 16  # lengths are padded to multiples of it
_WINDOW = 4096  # conversations that are sorted by length together
_LOG_STEPS = 10
_MEASURE_STEPS = 200
_SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class SmallBatch:
    """Indices of conversations, and the length that they are padded to."""

    members: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Inputs:
    ids: torch.Tensor  # (B, T)
    where: torch.Tensor  # (N) places in B*T whose next id counts
    targets: torch.Tensor  # (N)
    weights: torch.Tensor  # (N) of their losses


def has_gpu() -> bool:
    return torch.cuda.is_available()


def train(plan: Plan, work: Path, compiled: bool) -> None:
    """All stages, from the corpora in `work`. Run by every process that trains."""
    trainer = Trainer(plan, work, compiled=compiled)
    held_back = Corpus.load(work / "held_back.npz")
    for index, stage in enumerate(plan.stages):
        trainer.run(index, Corpus.load(work / f"{stage.name}.npz"), held_back)


def trained(plan: Plan, work: Path) -> Network:
    """The mean of the networks with which the last two stages ended: what the last one forgot comes half back."""
    before, last = (torch.load(_ended(work, stage), "cpu", weights_only=True) for stage in plan.stages[-2:])
    network = Network(plan.model)
    network.load_state_dict({name: (before[name] + weights) / 2 for name, weights in last.items()})
    return network


class Trainer:
    """Trains one network through the plan's stages. `work` holds the checkpoint and log.jsonl."""

    def __init__(self, plan: Plan, work: Path, *, compiled: bool) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.work = plan, work
        self.device = torch.device("cuda" if has_gpu() else "cpu")
        self.network = Network(plan.model).to(self.device)
        self._forward: Any = torch.compile(self.network, dynamic=True) if compiled else self.network
        self._matrices = Muon(self.network.matrices(), weight_decay=0.05)
        self._others = torch.optim.AdamW(self.network.others(), betas=(0.9, 0.95), weight_decay=0.0)
        self._stage, self._step, self._seconds, self._tokens = 0, 0, 0.0, 0
        if self._checkpoint.exists():
            self._load()

    @property
    def _checkpoint(self) -> Path:
        return self.work / "checkpoint.pt"

    @property
    def _log(self) -> Path:
        return self.work / "log.jsonl"

    def run(self, index: int, corpus: Corpus, held_back: Corpus) -> None:
        """Stage `index` of the plan, from where it stopped; nothing if it is done."""
        stage = self.plan.stages[index]
        if index < self._stage:
            return
        steps = batches(corpus, self.plan.batch_tokens, random.Random(f"{self.plan.seed} {stage.name} order"))
        began, saved = time.monotonic() - self._seconds, time.monotonic()
        losses: list[float] = []
        for step in range(self._step, len(steps)):
            rate = schedule(stage, step, len(steps))
            losses.append(self._train_step(corpus, steps[step], rate, stage))
            self._step, self._seconds = step + 1, time.monotonic() - began
            done = self._step == len(steps)
            if self._step % _LOG_STEPS == 0 or done:
                measured = self.measure(held_back) if self._step % _MEASURE_STEPS == 0 or done else None
                self._write_log(stage, len(steps), statistics.fmean(losses), rate, measured)
                losses = []
            if time.monotonic() - saved > _SAVE_SECONDS and not done:
                self._save()
                saved = time.monotonic()
        if not together.rank():
            torch.save(self.network.state_dict(), _ended(self.work, stage))
        self._stage, self._step = index + 1, 0
        self._save()

    @torch.no_grad()
    def measure(self, corpus: Corpus) -> float:
        """The weighted mean of the loss, in nats, over a corpus."""
        sums = torch.zeros(2)  # of losses, of weights
        for step in batches(corpus, self.plan.batch_tokens, random.Random(0)):
            for small in _share(step):
                inputs = self._inputs(corpus, small)
                loss = self._forward(inputs.ids, inputs.where, inputs.targets, inputs.weights)
                sums += torch.tensor([float(loss), float(inputs.weights.sum())])
        together.add_up([sums])
        return float(sums[0] / sums[1])

    def _train_step(self, corpus: Corpus, step: Sequence[SmallBatch], rate: float, stage: StagePlan) -> float:
        for optimizer, peak in ((self._matrices, stage.matrix_rate), (self._others, stage.other_rate)):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
        weight, total = sum(corpus.weight(small.members) for small in step), torch.zeros(1)
        for small in _share(step):
            inputs = self._inputs(corpus, small)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                loss = self._forward(inputs.ids, inputs.where, inputs.targets, inputs.weights) / weight
            loss.backward()
            total += loss.detach().cpu()
        together.add_up([total, *self._gradients()])
        self._tokens += sum(len(small.members) * small.length for small in step)
        torch.nn.utils.clip_grad_norm_(self.network.others(), 1.0)
        self._matrices.step()
        self._others.step()
        self.network.zero_grad(set_to_none=True)
        return float(total)

    def _gradients(self) -> list[torch.Tensor]:
        """Of all parameters, zeros where this process's share was empty."""
        for parameter in self.network.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]

    def _inputs(self, corpus: Corpus, small: SmallBatch) -> Inputs:
        ids = torch.zeros(len(small.members), small.length, dtype=torch.long)
        where, targets, weights = [], [], []
        for row, member in enumerate(small.members):
            conversation = corpus.conversation(member)
            tokens = torch.from_numpy(conversation.ids.astype("int64"))
            ids[row, : len(tokens)] = tokens
            places = torch.from_numpy(conversation.weights[1:].nonzero()[0])  # an id is predicted one place earlier
            where.append(places + row * small.length)
            targets.append(tokens[1:][places])
            weights.append(torch.from_numpy(conversation.weights[1:].astype("float32"))[places])
        return Inputs(ids.to(self.device), *(torch.cat(parts).to(self.device) for parts in (where, targets, weights)))

    def _write_log(self, stage: StagePlan, steps: int, loss: float, rate: float, measured: float | None) -> None:
        line: dict[str, Any] = {
            "stage": stage.name, "step": self._step, "steps": steps, "loss": round(loss, 4), "rate": round(rate, 4),
            "tokens": self._tokens, "seconds": round(self._seconds, 1),
        }  # fmt: skip
        if measured is not None:
            line["held_back_loss"] = round(measured, 4)
        if together.rank():
            return
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(" ".join(f"{key} {value}" for key, value in line.items()), flush=True)

    def _save(self) -> None:
        """All processes hold the same; the first writes."""
        if together.rank():
            return
        state = {
            "network": self.network.state_dict(), "matrices": self._matrices.state_dict(),
            "others": self._others.state_dict(), "stage": self._stage, "step": self._step, "seconds": self._seconds,
            "tokens": self._tokens,
        }  # fmt: skip
        temporary = self._checkpoint.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self._checkpoint)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self._matrices.load_state_dict(state["matrices"])
        self._others.load_state_dict(state["others"])
        self._stage, self._step = state["stage"], state["step"]
        self._seconds, self._tokens = state["seconds"], state["tokens"]
        if not together.rank():
            self._forget_later_lines()

    def _forget_later_lines(self) -> None:
        """The log may be ahead of the checkpoint; what is done again is logged again."""
        if not self._log.exists():
            return
        names = [stage.name for stage in self.plan.stages]
        reached = (self._stage, self._step)
        temporary = self._log.with_suffix(".part")
        with self._log.open(encoding="utf-8") as old, temporary.open("w", encoding="utf-8") as new:
            for line in old:
                entry = json.loads(line)
                if (names.index(entry["stage"]), entry["step"]) <= reached:
                    new.write(line)
        shutil.move(temporary, self._log)


def _ended(work: Path, stage: StagePlan) -> Path:
    """The network at a stage's end."""
    return work / f"{stage.name}.pt"


def _share(step: Sequence[SmallBatch]) -> list[SmallBatch]:
    """What this process does of a step: the longest batches are given out first, each to who has least."""
    loads, mine = [0.0] * together.count(), []
    for small in sorted(step, key=_cost, reverse=True):
        least = loads.index(min(loads))
        loads[least] += _cost(small)
        if least == together.rank():
            mine.append(small)
    return mine


def _cost(small: SmallBatch) -> float:
    """In tokens without attention, which costs about as much as all else where conversations are 2,500 long."""
    return len(small.members) * small.length * (1 + small.length / 2500)


def schedule(stage: StagePlan, step: int, steps: int) -> float:
    """The share of the peak rate at a step: a rise, and a straight fall over the whole pass."""
    rise = (step + 1) / stage.warmup if stage.warmup else 1.0
    return min(rise, 1 - (1 - stage.end) * step / steps)


def batches(corpus: Corpus, tokens: int, rng: random.Random) -> list[list[SmallBatch]]:
    """Every conversation once: steps of small batches, about `tokens` in each step, padding included."""
    order = list(range(len(corpus)))
    rng.shuffle(order)
    lengths = [end - start for start, end in zip([0, *corpus.ends[:-1].tolist()], corpus.ends.tolist(), strict=True)]
    steps: list[list[SmallBatch]] = []
    for start in range(0, len(order), _WINDOW):
        small = list(_small_batches(sorted(order[start : start + _WINDOW], key=lengths.__getitem__), lengths))
        rng.shuffle(small)
        count = max(1, round(sum(len(one.members) * one.length for one in small) / tokens))
        steps += [small[first::count] for first in range(count) if small[first::count]]
    return steps


def _small_batches(by_length: Sequence[int], lengths: Sequence[int]) -> Iterator[SmallBatch]:
    """From the longest down, so that the first of a batch says how far the others are padded."""
    members: list[int] = []
    length = 0
    for index in reversed(by_length):
        if members and (len(members) + 1) * length > _SMALL_BATCH:
            yield SmallBatch(tuple(members), length)
            members = []
        if not members:
            length = -(-lengths[index] // _ROUND) * _ROUND
        members.append(index)
    if members:
        yield SmallBatch(tuple(members), length)
