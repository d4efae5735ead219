"""The published weights: one `model.safetensors`, or shards that `model.safetensors.index.json` lists."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from solfa.core import checkpoints
from solfa.core.errors import UserError

# What the reference computes itself, or reads in training only; files without it are whole.
OPTIONAL = ("_codebook.inited", "_codebook.cluster_size", "_codebook.embed_avg", "istft.window")


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill all of `model`, whose parameters may be uninitialized, in their own dtype.

    Raises: UserError where a tensor is missing, foreign or of another shape, or a file cannot be read.
    """
    tensors = read_tensors(folder)
    for name, value in model.state_dict().items():
        if name.endswith(OPTIONAL) and name not in tensors:
            tensors[name] = torch.hann_window(len(value)) if name.endswith("window") else torch.zeros(value.shape)
    checkpoints.load_into(model, tensors, folder)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors by name, as they are stored."""
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            shards = sorted({str(name) for name in weight_map.values()})
        except (json.JSONDecodeError, UnicodeDecodeError, OSError, KeyError, TypeError, AttributeError):
            raise UserError(f"{index} is not an index of safetensors files") from None
    tensors: dict[str, Tensor] = {}
    for path in (folder / shard for shard in shards):
        if not path.is_file():
            raise UserError(f"checkpoint folder {folder} has no {path.name}")
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError) as e:
            raise UserError(f"{path} is damaged or not a safetensors file") from e
    return tensors
