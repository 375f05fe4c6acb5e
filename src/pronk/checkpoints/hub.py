"""Models from a Hugging Face hub: which files of a repository make the model, fetched and checked.

huggingface_hub does the fetching (HF_ENDPOINT, HF_TOKEN, resume, Xet). What it does not check is done here: each file's
sha256, or its git hash where it is no large file.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pronk.checkpoints import registry
from pronk.checkpoints.fetch import Progress
from pronk.errors import DownloadError

_PART = re.compile(r"-(\d{5})-of-\d{5}(?=\.gguf$)")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
# What lies beside the weights and belongs to the model.
_HF_SIDE = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
    r"|tokenizer\.model|chat_template\.jinja|.*\.safetensors\.index\.json|LICENSE.*|USE_POLICY.*"
)
_META_SIDE = re.compile(r"params\.json|tokenizer\.model|checklist\.chk|consolidated\.\d\d\.pth")


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int
    sha256: str | None  # of large files
    blob_id: str | None  # git's hash of the others


@dataclass(frozen=True)
class Choice:
    """The files of one model, and the one to open; "" for the directory itself."""

    files: tuple[RemoteFile, ...]
    entry: str


def pull_hub(
    spec: str, *, progress: Progress | None = None, wait: Callable[[float], None] = time.sleep
) -> registry.PulledModel:
    """Fetch `org/name[:file-or-quant]` into the pulled models. What is there already and right is not fetched again.

    Raises DownloadError: no such repository or file, a licence to accept, several files that fit, a wrong checksum.
    """
    repository, _, wanted = spec.partition(":")
    if not _REPOSITORY.fullmatch(repository):
        raise DownloadError(f"hf:{spec} names no repository, expected hf:org/name or hf:org/name:quant")
    revision, files = _listing(repository, wait)
    choice = choose(files, wanted, repository)
    directory = registry.directory_of(spec)
    directory.mkdir(parents=True, exist_ok=True)
    done, total = 0, sum(file.size for file in choice.files)
    _check_space(directory, total)
    for file in choice.files:
        at = done
        report = (lambda n, path=file.path, at=at: progress(path, at + n, total)) if progress else None
        _fetch(repository, revision, file, directory, report, wait)
        done += file.size
    return registry.register(spec, f"hf:{spec}", choice.entry)


# --- which files ---


def choose(files: Sequence[RemoteFile], wanted: str, repository: str) -> Choice:
    """The model that is meant: a file or quantization by name, else safetensors, Meta's files, or the only GGUF."""
    ggufs = [file for file in files if file.path.endswith(".gguf")]
    if wanted:
        return _chosen_gguf(ggufs, wanted, repository)
    top = [file for file in files if "/" not in file.path]
    safetensors = _weights(top)
    if safetensors:
        return Choice((*(f for f in top if _HF_SIDE.fullmatch(f.path)), *safetensors), "")
    for prefix in ("", "original/"):
        inside = [f for f in files if f.path.startswith(prefix) and _META_SIDE.fullmatch(f.path[len(prefix) :])]
        if any(f.path.endswith(".pth") for f in inside) and any(f.path.endswith("params.json") for f in inside):
            return Choice(tuple(inside), prefix.rstrip("/"))
    if len(_models(ggufs)) == 1:
        return _chosen_gguf(ggufs, "", repository)
    if ggufs:
        raise DownloadError(f"hf:{repository} has several models, say which: {_names(repository, ggufs)}")
    raise DownloadError(
        f"hf:{repository} has no model that this version opens, expected *.safetensors, consolidated.*.pth or *.gguf"
    )


def _weights(top: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The safetensors of transformers' layout; some repositories have another copy of everything beside it."""
    found = [file for file in top if file.path.endswith(".safetensors")]
    return [f for f in found if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", f.path)] or found


def _chosen_gguf(ggufs: Sequence[RemoteFile], wanted: str, repository: str) -> Choice:
    models = _models(ggufs)
    exact = [m for m in models if any(f.path in (wanted, f"{wanted}.gguf") for f in models[m])]
    # Q4_K means Q4_K, and not Q4_K_M, where both are there.
    whole = [m for m in models if re.search(rf"(?<![a-z0-9_]){re.escape(wanted.lower())}(?![a-z0-9_])", m.lower())]
    fitting = exact or whole or [m for m in models if wanted.lower() in m.lower()]
    if len(fitting) != 1:
        found = f"{len(fitting)} models fit" if fitting else "no model fits"
        those = [f for m in fitting or models for f in models[m]]
        listed = _names(repository, those) or "no *.gguf at all"
        raise DownloadError(f"{found} {wanted!r} in hf:{repository}, expected one of {listed}")
    files = sorted(models[fitting[0]], key=lambda file: file.path)
    return Choice(tuple(files), files[0].path)


def _models(ggufs: Iterable[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """Files by model: the parts of a split one share a name."""
    models: dict[str, list[RemoteFile]] = {}
    for file in ggufs:
        models.setdefault(_PART.sub("", file.path), []).append(file)
    return models


def _names(repository: str, ggufs: Iterable[RemoteFile]) -> str:
    return ", ".join(f"hf:{repository}:{name}" for name in sorted(_models(ggufs)))


# --- over the network ---


def _listing(repository: str, wait: Callable[[float], None]) -> tuple[str, list[RemoteFile]]:
    """The newest commit and its files."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=_endpoint())
    info = _explained(f"hf:{repository}", lambda: api.model_info(repository, files_metadata=True), wait, attempts=3)
    files = [
        RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None, s.blob_id) for s in info.siblings or []
    ]
    if not info.sha:
        raise DownloadError(f"hf:{repository} has no files yet")
    for file in files:
        if file.path.startswith("/") or ".." in file.path.split("/") or "\\" in file.path:
            raise DownloadError(
                f"hf:{repository} has a file called {file.path!r}, which would lie outside its directory"
            )
    return info.sha, files


def _check_space(directory: Path, total: int) -> None:
    here = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())  # of an earlier try
    free = shutil.disk_usage(directory).free
    if free < total - here:
        raise DownloadError(
            f"the model has {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at {directory}; free some,"
            " or set PRONK_HOME to another disk"
        )


def _fetch(
    repository: str,
    revision: str,
    file: RemoteFile,
    directory: Path,
    report: Callable[[int], None] | None,
    wait: Callable[[float], None],
) -> None:
    from huggingface_hub import hf_hub_download

    options: dict[str, Any] = {"local_dir": directory, "endpoint": _endpoint()}
    if report and "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = _bar(report)
    where = f"{file.path} of hf:{repository}"
    path = Path(_explained(where, lambda: hf_hub_download(repository, file.path, revision=revision, **options), wait))
    if not _matches(path, file):
        path.unlink()
        kind = "sha256" if file.sha256 else "git hash"
        raise DownloadError(f"{where} is not what the hub promised: its {kind} differs; fetch it again")


def _matches(path: Path, file: RemoteFile) -> bool:
    if file.sha256 is None and file.blob_id is None:
        return path.stat().st_size == file.size
    if file.sha256:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(usedforsecurity=False)  # git: of "blob", the size, and the bytes
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as data:
        while chunk := data.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == (file.sha256 or file.blob_id)


def _explained(where: str, call: Callable[[], Any], wait: Callable[[float], None], attempts: int = 6) -> Any:
    """The call's result. A cut connection is tried again, and what no trying mends is said in one line."""
    from huggingface_hub import errors

    reason = ""
    for attempt in range(attempts):
        try:
            return call()
        except errors.GatedRepoError:
            page = f"{_endpoint()}/{where.partition('hf:')[2]}"
            raise DownloadError(
                f"{where} is gated: accept its licence at {page}, then set HF_TOKEN or run `hf auth login`"
            ) from None
        except errors.RepositoryNotFoundError:
            raise DownloadError(
                f"{where}: there is no such repository, or it is private; check the name, or set HF_TOKEN"
            ) from None
        except errors.OfflineModeIsEnabled:
            raise DownloadError(f"{where} is not here, and HF_HUB_OFFLINE forbids fetching it; unset it") from None
        except errors.LocalEntryNotFoundError as error:  # the hub could not be asked, and nothing is here
            reason = _first_line(error)
        except errors.EntryNotFoundError:
            raise DownloadError(f"{where}: there is no such file") from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            reason = f"status {status}"
            if status < 500 and status not in (408, 429):
                raise DownloadError(f"cannot fetch {where} from {_endpoint()}: {reason}") from None
        except Exception as error:
            # Transport errors are of httpx or requests, by the version of huggingface_hub, and have no common base.
            if isinstance(error, OSError) and error.errno is not None and error.filename:
                raise DownloadError(f"cannot write {error.filename}: {error.strerror}") from None
            if not _is_transport(error):
                raise
            reason = _first_line(error)
        if attempt < attempts - 1:
            wait(min(2.0**attempt, 30.0))
    raise DownloadError(f"cannot fetch {where} from {_endpoint()}: {reason}; try again, it goes on where it stopped")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def _is_transport(error: Exception) -> bool:
    modules = {cls.__module__.partition(".")[0] for cls in type(error).__mro__}
    return isinstance(error, OSError) or bool(modules & {"httpx", "httpx2", "httpcore", "httpcore2", "requests"})


def _bar(report: Callable[[int], None]) -> type:
    """What huggingface_hub takes for a tqdm bar, and only passes on how far the file is."""
    import huggingface_hub.utils

    base: Any = getattr(huggingface_hub.utils, "tqdm")  # noqa: B009 - the name is public and not in its stubs

    class Bar(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.bytes_here = options.get("initial", 0)
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.bytes_here += n or 0
            report(int(self.bytes_here))
            return None

    return Bar
