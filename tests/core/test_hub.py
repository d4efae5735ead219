"""The hub: which names are asked for, and what is uploaded.  Only the calls to the network are replaced."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from solfa.core import checkpoints, hub
from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer


@pytest.mark.parametrize(
    ("name", "asked"), [("hf:owner/name", ("owner/name", None)), ("hf:owner/name@v1.2", ("owner/name", "v1.2"))]
)
def test_names_that_are_fetched(
    name: str, asked: tuple[str, str | None], tiny_codec_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[str, str | None]] = []

    def snapshot(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in allow_patterns)
        found.append((repo, revision))
        return str(tiny_codec_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    codec = AudioTokenizer.from_pretrained(name)
    assert found == [asked]
    assert codec.name == "name"


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:a/b/c", "hf:owner/na me", "hf:owner/name@", "hf:/x"])
def test_names_that_are_none_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="is no name on the hub: write hf:owner/name"):
        checkpoints.resolve(name, "audio_tokenizer")


def test_without_a_network_the_hub_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'hf:nobody/nothing' cannot be fetched from the hub") as caught:
        checkpoints.resolve("hf:nobody/nothing", "audio_tokenizer")
    assert "\n" not in str(caught.value)


def test_push_uploads_what_save_pretrained_writes(
    tiny_codec: AudioTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    kept = tmp_path / "kept"

    def upload(self: object, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        calls.append({"repo": repo_id, "message": commit_message})
        Path(folder_path).rename(kept)
        Path(folder_path).mkdir()
        return "https://hub/commit"

    def create(self: object, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        calls.append({"repo": repo_id, "private": private, "exist_ok": exist_ok})

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    assert tiny_codec.push_to_hub("owner/tiny", private=True) == "https://hub/commit"
    assert calls == [
        {"repo": "owner/tiny", "private": True, "exist_ok": True},
        {"repo": "owner/tiny", "message": "Upload with solfa"},
    ]
    assert sorted(path.name for path in kept.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((kept / "config.json").read_text())["kind"] == "audio_tokenizer"
    assert 'from_pretrained("hf:owner/tiny")' in (kept / "README.md").read_text()
    assert AudioTokenizer.from_pretrained(kept).fingerprint == tiny_codec.fingerprint


def test_the_hubs_refusal_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route to the hub\nand a page more")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match="^owner/name could not be uploaded to the hub: no route to the hub$"):
        hub.push(lambda folder: None, "hf:owner/name")
