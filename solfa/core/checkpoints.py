"""Checkpoint folders: `config.json`, `model.safetensors`, side files, and a model card `README.md`.

Finding a folder (`resolve`) is separate from reading it (`load`); `restore` does both and builds the model.  Nothing here
unpickles, and nothing is built before the configuration was compared with what the weights' file holds.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import solfa
from solfa.core import hub, recipe
from solfa.core.atomic import finish_replacing, replacing_files
from solfa.core.errors import UserError
from solfa.core.guarded_build import limited_to, read_header

C = TypeVar("C")
M = TypeVar("M", bound=torch.nn.Module)

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
LARGEST_CONFIG = 1 << 24  # bytes
LARGEST_SIZE = 1 << 24  # whole number in a configuration: no vocabulary, width or length comes near it
BUNDLED = Path(__file__).parents[1] / "weights"
DEFAULTS = {"audio_tokenizer": "codec-24khz", "tts": "tts-en", "style": "style-en", "text": "text-en"}


# ---- finding ----------------------------------------------------------------------------------------------------------


def bundled() -> list[str]:
    """Names of the checkpoints that ship inside the package."""
    return sorted(p.parent.name for p in BUNDLED.glob(f"*/{CONFIG}"))


def resolve(name: str | Path | None, kind: str) -> Path:
    """The folder of a bundled name, a path, or `hf:owner/name` of the hub; None means the default of this kind.

    Raises: UserError where there is none.  Only names that begin with `hf:` are asked for in the network.
    """
    name = name or DEFAULTS[kind]
    if (BUNDLED / str(name) / CONFIG).is_file() and re.fullmatch(r"[\w.-]+", str(name)):
        return BUNDLED / str(name)
    if not isinstance(name, Path) and name.startswith(hub.PREFIX):
        return hub.download(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not isinstance(name, Path) and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(
            f"there is no folder {name!r} here: for the checkpoint of that name on the hub, write hf:{name}"
        )
    raise UserError(
        f"no checkpoint {str(name)!r}: give a folder, a name on the hub (hf:owner/name), "
        f"or one of {', '.join(bundled()) or 'none bundled'}"
    )


# ---- reading ----------------------------------------------------------------------------------------------------------


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The model's configuration from `config.json`, checked to be of this kind and format.

    Raises: UserError where it is not, or is missing or unreadable.
    """
    path = folder / CONFIG
    finish_replacing(folder, CONFIG)
    if not path.is_file():  # perhaps because another process is saving at this very moment
        finish_replacing(folder, CONFIG)
    header = read_json(path)
    if not isinstance(header, dict) or "format_version" not in header or "kind" not in header:
        raise UserError(f"{path} was not written by solfa (it has no format_version and kind)")
    if header["kind"] != kind:
        raise UserError(f"{folder} holds a checkpoint of kind {header['kind']!r}, but {kind!r} is needed")
    if header["format_version"] != FORMAT_VERSION:
        raise UserError(f"{path} has format {header['format_version']}; this solfa reads format {FORMAT_VERSION}")
    config = header.get("config")
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no configuration: config should be a mapping, not {config!r}")
    if wrong := next(_impossible(config), None):
        raise UserError(f"{path}: {wrong}")
    return config


def read_json(path: Path) -> Any:
    """What a checkpoint's JSON file holds.  Raises: UserError where it is missing, too large, or no JSON."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise UserError(f"{path} is too large for a configuration")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"checkpoint folder {path.parent} has no {path.name}") from None
    except UserError:
        raise
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} is not readable JSON") from None


def _impossible(values: Any, name: str = "") -> Any:
    """Sentences on numbers that no configuration of ours can have: sizes that are negative or too large, and those that are not finite."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _impossible(value, str(key))
    elif isinstance(values, list):
        for value in values:
            yield from _impossible(value, name)
    elif isinstance(values, int) and values < 0:
        yield f"{name} cannot be negative, and is {values}"
    elif isinstance(values, int) and values > LARGEST_SIZE:
        yield f"{name} should be at most {LARGEST_SIZE}"
    elif isinstance(values, float) and not math.isfinite(values):
        yield f"{name} should be a finite number, not {values}"


def load(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """-> (configuration, tensors by name in float32 where stored in another float).

    Raises: UserError for a folder that holds none, another kind, or a damaged one.
    """
    return read_config(folder, kind), read_tensors(folder / WEIGHTS)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in float32 where stored in another float.

    Raises: UserError for a file that is missing or damaged, or has numbers that are not finite.
    """
    tensors = {}
    read_header(path)
    try:
        for name, value in load_file(path).items():
            tensors[name] = value.float() if value.is_floating_point() else value
    except (SafetensorError, OSError, RuntimeError) as e:
        raise UserError(f"{path} is damaged or not a safetensors file") from e
    check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises: UserError for NaN and infinite numbers, as training that diverged leaves them."""
    for name, value in tensors.items():
        if value.is_floating_point() and value.numel() and not torch.stack(value.aminmax()).isfinite().all():
            raise UserError(f"{path} holds NaN or infinite weights, first in {name!r}: its training went wrong")


def restore(make: Callable[[C], M], config: type[C], name: str | Path | None, kind: str) -> tuple[M, Path]:
    """The model that `save` wrote, made from its configuration: -> (model in float32 and evaluation mode, its folder).

    Raises: UserError for a folder that holds none, another kind, or a damaged one.
    """
    folder = resolve(name, kind)
    while True:
        values = read_config(folder, kind)
        settings = recipe.build(config, values, str(folder / CONFIG))
        model = fill(partial(make, settings), folder)
        if read_config(folder, kind) == values:  # otherwise another process saved while this one read
            return model, folder


def fill(
    make: Callable[[], M], folder: Path, unpack: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
) -> M:
    """A model with the weights of a folder, in float32 and evaluation mode.

    Args:
        make: builds the model from a configuration that need not have been checked: one that asks for more than
            `model.safetensors` holds is stopped before it takes memory or time.
        unpack: from the tensors as stored to those of the model.

    Raises: UserError where configuration and weights do not fit, or the weights are damaged.
    """
    path = folder / WEIGHTS
    expected = unpack(read_tensors(path)) if unpack else read_header(path)
    try:
        with limited_to(expected, lambda reason: misfit(path, reason)):
            model = make()
    except (UserError, ImportError):
        raise
    except Exception as e:  # whatever a module makes of sizes that it was not written for
        reason = str(e).strip().partition("\n")[0] or type(e).__name__
        raise UserError(f"{folder / CONFIG} does not make a model: {reason}") from e
    check_fit(model, expected, path)
    model.load_state_dict(expected if unpack else read_tensors(path), strict=True)
    return model.eval()


def load_into(model: torch.nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """`load_state_dict(strict=True)`, with one sentence instead of a page when the file belongs to another model."""
    check_fit(model, tensors, folder / WEIGHTS)
    model.load_state_dict(tensors, strict=True)


def check_fit(model: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises: UserError unless these are all of the model's tensors, in their shapes; floats for floats, integers for integers."""
    own = model.state_dict()
    if wrong := [f"{name!r} is missing" for name in sorted(own.keys() - tensors.keys())]:
        pass
    elif wrong := [f"{name!r} is not of this model" for name in sorted(tensors.keys() - own.keys())]:
        pass
    else:
        wrong = [
            f"{name!r} is {described(tensors[name])} instead of {described(value)}"
            for name, value in own.items()
            if value.shape != tensors[name].shape or value.is_floating_point() != tensors[name].is_floating_point()
        ]
    if wrong:
        raise misfit(path, f"{len(wrong)} tensors differ, first {wrong[0]}")


def misfit(path: Path, reason: str) -> UserError:
    """What is raised about a file whose weights are not those of the configuration beside it."""
    return UserError(f"{path} does not fit its config.json: {reason}")


def described(tensor: Tensor) -> str:
    """`float32 (3, 4)`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


# ---- writing ----------------------------------------------------------------------------------------------------------


def save(
    folder: Path | str,
    kind: str,
    config: dict[str, Any],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = torch.bfloat16,
    side_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a checkpoint folder; killed at any moment, the folder holds all of the old checkpoint or all of the new one.

    Other files in the folder stay.  Raises: UserError when it cannot be written.

    Args:
        config: of the model, as `read_config` will return it.
        dtype: of floats in the file; None: as they are.
        side_files: further files that belong to these weights, by name.
    """
    small = {
        k: (v.to(dtype) if dtype is not None and v.is_floating_point() else v).detach().contiguous().cpu()
        for k, v in tensors.items()
    }
    header = {"format_version": FORMAT_VERSION, "kind": kind, "solfa_version": solfa.__version__, "config": config}
    with replacing_files(Path(folder), last=CONFIG) as aside:
        save_file(small, aside / WEIGHTS)
        for name, data in (side_files or {}).items():
            (aside / name).write_bytes(data)
        (aside / CONFIG).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")


# ---- fingerprints -----------------------------------------------------------------------------------------------------


def same_codes(one: str, other: str) -> bool:
    """Whether two fingerprints of a codec mean the same codes.

    What decides the books for the waveform follows a +; a fingerprint without it is of tokens that have none of them.
    """
    return all(a == b for a, b in zip(one.split("+"), other.split("+"), strict=False))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits over names and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
