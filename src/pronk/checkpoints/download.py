"""From what a user calls a model to the path of its files, fetched when they are not here yet."""

from __future__ import annotations

from pathlib import Path

from pronk.checkpoints import registry
from pronk.checkpoints.fetch import Progress
from pronk.errors import CheckpointError


def resolve(spec: str, *, progress: Progress | None = None) -> Path:
    """The path of `hf:org/name[:file-or-quant]`, of a pulled model by its name, or of a built-in one.

    A model that is here already is found without the network. Raises DownloadError, or CheckpointError for a name that
    nothing has.
    """
    pulled = registry.find(spec)
    if pulled is not None:
        return pulled.path
    if spec.lower().startswith("hf:"):
        from pronk.checkpoints.hub import pull_hub

        return pull_hub(spec[3:], progress=progress).path
    builtin = registry.builtin(spec)
    if builtin is not None:
        return builtin
    here = ", ".join(model.name for model in registry.models()) or "none yet"
    raise CheckpointError(
        f"there is no file, directory or model {spec!r}; expected a path, hf:org/name, random:SHAPE, "
        f"or a pulled model ({here})"
    )
