"""The published weights: one `model.safetensors`, or shards that `model.safetensors.index.json` lists."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.core.guarded_build import read_header, weight_files

# What the reference computes itself, or reads in training only; files without it are whole.
OPTIONAL = ("_codebook.inited", "_codebook.cluster_size", "_codebook.embed_avg", "istft.window")


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill all of `model`, whose parameters may be uninitialized, in their own dtype.

    Raises: UserError where a tensor is missing, not of this model, of another shape or not finite, or a file cannot be read.
    """
    tensors = read_tensors(folder)
    for name, value in model.state_dict().items():
        if name.endswith(OPTIONAL) and name not in tensors:
            tensors[name] = torch.hann_window(len(value)) if name.endswith("window") else torch.zeros(value.shape)
    checkpoints.load_into(model, tensors, folder)


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Names, shapes and types of all tensors, on the `meta` device.  Raises: UserError as `load_weights`."""
    return {name: tensor for path in weight_files(folder) for name, tensor in read_header(path).items()}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors by name, as they are stored.  Raises: UserError as `load_weights`."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        read_header(path)
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError, RuntimeError) as e:
            raise UserError(f"{path} is damaged or not a safetensors file") from e
    checkpoints.check_finite(tensors, folder)
    return tensors
