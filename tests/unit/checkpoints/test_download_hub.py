"""Fetching from a hub on loopback: which files, resumed, checked, explained."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from pronk.checkpoints import hub, registry
from pronk.checkpoints.download import resolve
from pronk.errors import CheckpointError, DownloadError
from support.file_server import COMMIT, Files, serving

pytest.importorskip("huggingface_hub")

WEIGHTS = bytes(range(256)) * 2000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    with serving(Files()) as files:
        monkeypatch.setenv("HF_ENDPOINT", files.url)
        monkeypatch.setenv("PRONK_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # whatever the surroundings say
        yield files


def remote(*paths: str) -> list[hub.RemoteFile]:
    return [hub.RemoteFile(path, 1, None, None) for path in paths]


def chosen(files: list[hub.RemoteFile], wanted: str = "") -> tuple[list[str], str]:
    choice = hub.choose(files, wanted, "org/name")
    return [file.path for file in choice.files], choice.entry


def no_wait(seconds: float) -> None:
    pass


# --- which files ---


def test_safetensors_come_first() -> None:
    files = remote(
        "README.md", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "consolidated.safetensors", "pytorch_model.bin", "tokenizer.json", "q.gguf",
        "original/consolidated.00.pth", "original/params.json", "onnx/model.onnx",
    )  # fmt: skip
    assert chosen(files) == (
        [
            "config.json", "model.safetensors.index.json", "tokenizer.json", "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ],
        "",
    )  # fmt: skip


def test_metas_files_come_second() -> None:
    files = remote(
        "original/consolidated.00.pth", "original/params.json", "original/tokenizer.model", "a.gguf", "b.gguf"
    )
    assert chosen(files) == (
        ["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"],
        "original",
    )


def test_only_gguf_comes_last() -> None:
    assert chosen(remote("README.md", "sub/x-Q4_K_M.gguf")) == (["sub/x-Q4_K_M.gguf"], "sub/x-Q4_K_M.gguf")


def test_quantization_is_found_by_its_name() -> None:
    files = remote("m.Q4_K_M.gguf", "m.Q4_K_S.gguf", "m.Q4_K.gguf", "m.IQ4_XS.gguf", "model.safetensors")
    assert chosen(files, "q4_k_m")[1] == "m.Q4_K_M.gguf"
    assert chosen(files, "Q4_K")[1] == "m.Q4_K.gguf"
    assert chosen(files, "m.IQ4_XS.gguf")[1] == "m.IQ4_XS.gguf"


def test_parts_of_a_split_file_belong_together() -> None:
    files = remote("m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q4_0.gguf")
    assert chosen(files, "Q8_0") == (
        ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"],
        "m-Q8_0-00001-of-00002.gguf",
    )


@pytest.mark.parametrize(
    ("paths", "wanted", "words"),
    [
        (["a-Q4_K_M.gguf", "a-Q4_K_S.gguf"], "Q4", "2 models fit 'Q4'.*:a-Q4_K_M.gguf, hf:org/name:a-Q4_K_S.gguf"),
        (["a-Q4_K_M.gguf"], "Q8_0", "no model fits 'Q8_0'.*hf:org/name:a-Q4_K_M.gguf"),
        (["model.safetensors"], "Q8_0", "no model fits .*no \\*.gguf at all"),
        (["a.gguf", "b.gguf"], "", "several models, say which: hf:org/name:a.gguf, hf:org/name:b.gguf"),
        (["README.md", "pytorch_model.bin"], "", "no model that this version opens"),
    ],
)  # fmt: skip
def test_what_is_unclear_lists_the_choices(paths: list[str], wanted: str, words: str) -> None:
    with pytest.raises(DownloadError, match=words):
        chosen(remote(*paths), wanted)


# --- over the network ---


def test_pulled_model_is_resolved_without_the_network(server: Files) -> None:
    server.add_repository("org/name", {"config.json": b"{}", "model.safetensors": WEIGHTS, "big.bin": b"no"})
    seen: list[tuple[str, int, int]] = []
    path = resolve("hf:org/name", progress=lambda *args: seen.append(args))
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert (path / "config.json").read_bytes() == b"{}"
    assert not (path / "big.bin").exists()
    assert seen[-1] == ("model.safetensors", 2 + len(WEIGHTS), 2 + len(WEIGHTS))
    server.seen.clear()
    assert resolve("hf:org/name") == path
    assert resolve("ORG/name") == path
    assert server.seen == []
    assert [(m.name, m.source) for m in registry.models()] == [("org/name", "hf:org/name")]


def test_quantization_resolves_to_the_file(server: Files) -> None:
    server.add_repository("org/name", {"m-Q4_0.gguf": b"four", "m-Q8_0.gguf": b"eight"})
    assert resolve("hf:org/name:q8_0").read_bytes() == b"eight"


def test_cut_connections_are_resumed(server: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # what a cut may lose
    server.add_repository("org/name", {"m.gguf": WEIGHTS})
    where = f"/org/name/resolve/{COMMIT}/m.gguf"
    server.cuts[where] = [100_000]
    model = hub.pull_hub("org/name", wait=no_wait)
    assert model.path.read_bytes() == WEIGHTS
    assert "bytes=100000-" in server.ranges_asked(where)


@pytest.mark.parametrize(("path", "kind"), [("m.gguf", "sha256"), ("config.json", "git hash")])
def test_wrong_bytes_are_refused_and_removed(server: Files, path: str, kind: str) -> None:
    server.add_repository("org/name", {"config.json": b"{ }", "m.gguf": WEIGHTS, "model.safetensors": WEIGHTS})
    server.rotten.add(f"/org/name/resolve/{COMMIT}/{path}")
    spec = "org/name" if path == "config.json" else "org/name:m"
    with pytest.raises(DownloadError, match=f"{path} of hf:org/name is not what the hub promised: its {kind} differs"):
        hub.pull_hub(spec, wait=no_wait)
    assert registry.models() == []
    assert not (registry.directory_of(spec) / path).exists()
    server.rotten.clear()
    assert hub.pull_hub(spec, wait=no_wait).path.exists()


def test_busy_hub_is_tried_again(server: Files) -> None:
    server.add_repository("org/name", {"m.gguf": WEIGHTS})
    server.statuses["/api/models/org/name"] = [503]
    server.statuses[f"/org/name/resolve/{COMMIT}/m.gguf"] = [500, 502]
    assert hub.pull_hub("org/name", wait=no_wait).path.read_bytes() == WEIGHTS


def test_broken_hub_is_given_up(server: Files) -> None:
    server.add_repository("org/name", {"m.gguf": WEIGHTS})
    server.statuses["/api/models/org/name"] = [500] * 50
    with pytest.raises(DownloadError, match="status 500; try again"):
        hub.pull_hub("org/name", wait=no_wait)


def test_unknown_repository(server: Files) -> None:
    with pytest.raises(DownloadError, match="hf:org/none: there is no such repository, or it is private"):
        resolve("hf:org/none")


def test_nobody_listens(server: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Files()) as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(DownloadError, match=f"cannot fetch hf:org/name from {gone.url}: .*; try again"):
        hub.pull_hub("org/name", wait=no_wait)


def test_file_that_vanished_is_named(server: Files) -> None:
    server.add_repository("org/name", {"m.gguf": b"m"})
    del server.content[f"/org/name/resolve/{COMMIT}/m.gguf"]
    with pytest.raises(DownloadError, match=r"m\.gguf of hf:org/name: there is no such file"):
        hub.pull_hub("org/name", wait=no_wait)


def test_gated_repository_says_where_to_accept(server: Files) -> None:
    server.gated.add("/api/models/org/gated")
    with pytest.raises(DownloadError, match=f"gated: accept its licence at {server.url}/org/gated, then set HF_TOKEN"):
        resolve("hf:org/gated")


@pytest.mark.parametrize("name", ["../../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf"])
def test_files_outside_of_the_directory_are_refused(server: Files, name: str) -> None:
    server.add_repository("org/name", {name: b"x"})
    with pytest.raises(DownloadError, match="outside its directory"):
        hub.pull_hub("org/name", wait=no_wait)


@pytest.mark.parametrize("spec", ["hf:", "hf:name", "hf:a/b/c", "hf:../x", "hf:a b/c"])
def test_what_is_no_repository(server: Files, spec: str) -> None:
    with pytest.raises(DownloadError, match="names no repository"):
        resolve(spec)


def test_unknown_name_lists_what_is_here(server: Files) -> None:
    server.add_repository("org/name", {"m.gguf": b"m"})
    hub.pull_hub("org/name", wait=no_wait)
    with pytest.raises(CheckpointError, match=r"no file, directory or model 'nothing'.*org/name"):
        resolve("nothing")


def test_full_disk_is_seen_before(server: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add_repository("org/name", {"m.gguf": WEIGHTS})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(DownloadError, match=r"0\.0 GB are free at .*PRONK_HOME"):
        hub.pull_hub("org/name", wait=no_wait)


def test_interrupted_pull_is_no_model(server: Files) -> None:
    server.add_repository("org/name", {"config.json": b"{}", "model.safetensors": WEIGHTS})

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull_hub("org/name", progress=interrupt, wait=no_wait)
    assert registry.models() == []
    assert hub.pull_hub("org/name", wait=no_wait).path.is_dir()
