"""Models on this machine: where they lie, which there are, and what they are called.

They live in $PRONK_HOME, or in pronk/ of the user's cache directory (XDG base directory specification). Each is a
directory with a `.pronk.json` that is written last, so a download that was cut short is not taken for a model.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from pronk.errors import CheckpointError, DownloadError

_MARK = ".pronk.json"


@dataclass(frozen=True)
class PulledModel:
    """`entry` is the file to open inside the directory; empty where the directory itself is the model."""

    name: str
    source: str
    entry: str
    directory: Path

    @property
    def path(self) -> Path:
        return self.directory / self.entry

    @property
    def nbytes(self) -> int:
        return sum(file.stat().st_size for file in self.directory.rglob("*") if file.is_file())


def home() -> Path:
    """The directory of all models. It need not exist."""
    if chosen := os.environ.get("PRONK_HOME"):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "pronk"


def directory_of(name: str) -> Path:
    """Where a model of this name lies or will lie: one level deep, whatever the name has in it."""
    safe = name.replace("/", "--").replace(":", "--")
    if not safe or safe.startswith(".") or not all(c.isalnum() or c in "-_.+" for c in safe):
        raise DownloadError(f"{name!r} is no name for a model, expected letters, digits and any of / : - _ . +")
    return home() / safe


def models() -> list[PulledModel]:
    """Every whole model, by name."""
    found = (_read(mark.parent) for mark in home().glob(f"*/{_MARK}"))
    return sorted((model for model in found if model), key=lambda model: model.name)


def find(name: str) -> PulledModel | None:
    """The pulled model of this name, in any case, or of this source."""
    wanted = name.lower()
    return next((m for m in models() if wanted in (m.name.lower(), m.source.lower())), None)


def register(name: str, source: str, entry: str) -> PulledModel:
    """Say that the model is whole."""
    model = PulledModel(name, source, entry, directory_of(name))
    values = {key: value for key, value in asdict(model).items() if key != "directory"}
    temporary = model.directory / f"{_MARK}.part"
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    temporary.replace(model.directory / _MARK)
    return model


def remove(name: str) -> PulledModel:
    """Delete a pulled model. Raises CheckpointError for one that is not there."""
    model = find(name)
    if model is None:
        known = ", ".join(m.name for m in models()) or "none"
        raise CheckpointError(f"no model is called {name!r} here, expected one of: {known}")
    (model.directory / _MARK).unlink()  # first, so that half a model is never listed
    shutil.rmtree(model.directory)
    return model


def builtin(name: str) -> Path | None:
    """The file of a model that comes with the package."""
    path = Path(__file__).parents[1] / "models" / f"{name}.gguf"
    return path if name.isalnum() and path.is_file() else None


def _read(directory: Path) -> PulledModel | None:
    try:
        values = json.loads((directory / _MARK).read_text(encoding="utf-8"))
        name, source, entry = (str(values[key]) for key in ("name", "source", "entry"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    model = PulledModel(name, source, entry, directory)
    inside = directory.resolve() in (path := model.path.resolve()).parents or path == directory.resolve()
    return model if inside and model.path.exists() else None
