"""Checkpoint folders: `config.json`, `model.safetensors`, side files, and a model card `README.md`.

Finding a folder (`resolve`) is separate from reading it (`load`); `restore` does both and builds the model.  Nothing here unpickles.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import solfa
from solfa.core import recipe
from solfa.core.errors import UserError

C = TypeVar("C")
M = TypeVar("M", bound=torch.nn.Module)

FORMAT_VERSION = 1
BUNDLED = Path(__file__).parents[1] / "weights"
DEFAULTS = {"audio_tokenizer": "codec-24khz", "tts": "tts-en", "style": "style-en", "text": "text-en"}


def bundled() -> list[str]:
    """Names of the checkpoints that ship inside the package."""
    return sorted(p.parent.name for p in BUNDLED.glob("*/config.json"))


def resolve(name: str | Path | None, kind: str) -> Path:
    """The folder of a bundled name, a path or a hub id (`owner/name`); None means the default of this kind."""
    name = name or DEFAULTS[kind]
    if (BUNDLED / str(name) / "config.json").is_file() and re.fullmatch(r"[\w.-]+", str(name)):
        return BUNDLED / str(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not isinstance(name, Path) and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md", "*.txt"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
            raise UserError(
                f"checkpoint {name!r} is neither a folder here nor reachable on the hub ({type(e).__name__})"
            ) from e
    raise UserError(
        f"no checkpoint {str(name)!r}: give a folder, a hub id, or one of {', '.join(bundled()) or 'none bundled'}"
    )


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The model's configuration from `config.json`, checked to be of this kind and format."""
    path = folder / "config.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"checkpoint folder {folder} has no config.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError):
        raise UserError(f"{path} is not readable JSON") from None
    if not isinstance(header, dict) or "format_version" not in header or "kind" not in header:
        raise UserError(f"{path} was not written by solfa (it has no format_version and kind)")
    if header["kind"] != kind:
        raise UserError(f"{folder} holds a checkpoint of kind {header['kind']!r}, but {kind!r} is needed")
    if header["format_version"] != FORMAT_VERSION:
        raise UserError(f"{path} has format {header['format_version']}; this solfa reads format {FORMAT_VERSION}")
    return header["config"]


def load(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """-> (configuration, tensors by name in float32 where stored in a smaller float)."""
    config = read_config(folder, kind)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"checkpoint folder {folder} has no model.safetensors")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is damaged or not a safetensors file") from e
    return config, {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def restore(make: Callable[[C], M], config: type[C], name: str | Path | None, kind: str) -> tuple[M, Path]:
    """The model that `save` wrote, made from its configuration: -> (model in float32 and evaluation mode, its folder).

    Raises: UserError for a folder that holds none, another kind, or a damaged one.
    """
    folder = resolve(name, kind)
    values, tensors = load(folder, kind)
    model = make(recipe.build(config, values, str(folder / "config.json")))
    load_into(model, tensors, folder)
    return model.eval(), folder


def load_into(model: torch.nn.Module, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """`load_state_dict(strict=True)`, with one sentence instead of a page when the file belongs to another model."""
    own = model.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys()) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise UserError(
            f"{folder / 'model.safetensors'} does not fit its config.json: {len(wrong)} tensors differ, first {wrong[0]!r}"
        )
    model.load_state_dict(tensors, strict=True)


def save(
    folder: Path,
    kind: str,
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    dtype: torch.dtype | None = torch.bfloat16,
) -> None:
    """Write `config.json` and `model.safetensors` aside, then swap them in; other files in the folder stay.  dtype None: as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=".writing-"))
    try:
        small = {
            k: (v.to(dtype) if dtype is not None and v.is_floating_point() else v).contiguous().cpu()
            for k, v in tensors.items()
        }
        save_file(small, aside / "model.safetensors")
        header = {"format_version": FORMAT_VERSION, "kind": kind, "solfa_version": solfa.__version__, "config": config}
        (aside / "config.json").write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        for name in ("model.safetensors", "config.json"):
            (aside / name).chmod(0o644)  # safetensors writes for the owner alone
            os.replace(aside / name, folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def agree(one: str, other: str) -> bool:
    """Whether two fingerprints of a codec mean the same codes: what decides further books follows a +, and may be missing."""
    return all(a == b for a, b in zip(one.split("+"), other.split("+"), strict=False))


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """16 hex digits over names and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
