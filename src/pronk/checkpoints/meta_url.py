"""Meta's signed URL: the address from Meta's e-mail, with a `*` where the file's name belongs.

Which files there are: meta-llama/llama `download.sh` (Llama 2), meta-llama/llama3 `download.sh`, and
meta-llama/llama-models `models/llama3_1/download.sh`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pronk.checkpoints import registry
from pronk.checkpoints.fetch import Fetcher
from pronk.errors import DownloadError

FORBIDDEN = (
    "the link has expired (after 24 hours), was used too often, or is for another model; ask Meta for a new one and"
    " paste it whole, in quotes"
)
_SUM = re.compile(r"([0-9a-fA-F]{32})\s+\*?(?:\./)?(\S+)")


@dataclass(frozen=True)
class MetaModel:
    folder: str  # on Meta's side
    shards: int
    policy: str = "USE_POLICY.md"
    own_tokenizer: bool = True  # inside the folder; Llama 2 has one for all models
    checklist: bool = True


def _llama2(folder: str, shards: int) -> MetaModel:
    return MetaModel(folder, shards, own_tokenizer=False)


def _llama3(folder: str, shards: int) -> MetaModel:
    return MetaModel(folder, shards, policy="USE_POLICY")


def _llama3_1(folder: str, shards: int) -> MetaModel:
    return MetaModel(f"Meta-Llama-{folder}", shards, checklist=False)


MODELS = {
    "llama-2-7b": _llama2("llama-2-7b", 1),
    "llama-2-7b-chat": _llama2("llama-2-7b-chat", 1),
    "llama-2-13b": _llama2("llama-2-13b", 2),
    "llama-2-13b-chat": _llama2("llama-2-13b-chat", 2),
    "llama-2-70b": _llama2("llama-2-70b", 8),
    "llama-2-70b-chat": _llama2("llama-2-70b-chat", 8),
    "llama-3-8b": _llama3("8b_pre_trained", 1),
    "llama-3-8b-instruct": _llama3("8b_instruction_tuned", 1),
    "llama-3-70b": _llama3("70b_pre_trained", 8),
    "llama-3-70b-instruct": _llama3("70b_instruction_tuned", 8),
    "llama-3.1-8b": _llama3_1("3.1-8B", 1),
    "llama-3.1-8b-instruct": _llama3_1("3.1-8B-Instruct", 1),
    "llama-3.1-70b": _llama3_1("3.1-70B", 8),
    "llama-3.1-70b-instruct": _llama3_1("3.1-70B-Instruct", 8),
    "llama-3.1-405b-mp8": _llama3_1("3.1-405B-MP8", 8),
    "llama-3.1-405b-mp16": _llama3_1("3.1-405B-MP16", 16),
    "llama-3.1-405b-instruct-mp8": _llama3_1("3.1-405B-Instruct-MP8", 8),
    "llama-3.1-405b-instruct-mp16": _llama3_1("3.1-405B-Instruct-MP16", 16),
    "llama-guard-3-8b": _llama3_1("Guard-3-8B", 1),
}


def pull_meta(url: str, name: str, destination: Path | None = None, fetcher: Fetcher | None = None) -> Path:
    """Fetch one of MODELS into `destination` (among the pulled models by default), and return the directory.

    Files that are there and have the right md5 are kept, so calling it again goes on where it stopped.
    Raises DownloadError, naming the file, for a link that has expired, a wrong sum, or a server that stays away.
    """
    model = MODELS.get(name.lower())
    if model is None:
        raise DownloadError(f"Meta has no model {name!r}, expected one of {', '.join(MODELS)}")
    if "*" not in url:
        raise DownloadError(
            "the address has no '*', where Meta's signed URL has the place of the file; paste it whole, in quotes"
        )
    directory = destination or registry.directory_of(name.lower())
    directory.mkdir(parents=True, exist_ok=True)
    _fetch_all(url, model, directory, _explained(fetcher or Fetcher()))
    if destination is None:
        registry.register(name.lower(), f"meta:{name.lower()}", "")
    return directory


def _explained(fetcher: Fetcher) -> Fetcher:
    return Fetcher(fetcher.attempts, fetcher.first_wait, fetcher.wait, fetcher.progress, FORBIDDEN)


def _fetch_all(url: str, model: MetaModel, directory: Path, fetcher: Fetcher) -> None:
    def fetch(remote: str, sums: dict[str, str] | None = None) -> Path:
        path = directory / remote.rpartition("/")[2]
        fetcher.fetch(url.replace("*", remote, 1), path, (sums or {}).get(path.name))
        return path

    fetch("LICENSE")
    fetch(model.policy)
    if not model.own_tokenizer:
        fetch("tokenizer.model", _sums(fetch("tokenizer_checklist.chk")))
    sums = _sums(fetch(f"{model.folder}/checklist.chk")) if model.checklist else {}
    if model.own_tokenizer:
        fetch(f"{model.folder}/tokenizer.model", sums)
    fetch(f"{model.folder}/params.json", sums)
    for shard in range(model.shards):
        fetch(f"{model.folder}/consolidated.{shard:02}.pth", sums)


def _sums(path: Path) -> dict[str, str]:
    """File name -> md5, from a file as md5sum writes it."""
    sums = {match[2]: match[1].lower() for match in _SUM.finditer(path.read_text(errors="replace"))}
    if not sums:
        raise DownloadError(f"{path.name} holds no md5 sums, expected lines of md5sum; remove it and fetch it again")
    return sums
