"""Building a model from a configuration that was not checked, next to the file that holds its weights.

A configuration is a few hundred bytes and may ask for any amount of memory or time.  The header of the weights' file bounds
it: `limited_to` stops the building of a model at the first tensor that the file does not hold.
"""

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from solfa.core.errors import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
SPARE = 1 << 24  # elements, 64 MiB in float32, that tables which are computed and not stored may have
SHAPED = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}  # functions that are given a shape


def read_header(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds, by name: tensors on the `meta` device, which have shapes and types and no memory.

    Raises: UserError for a file that is missing, damaged, or has types that nothing here uses.
    """
    if not path.is_file():
        raise UserError(f"checkpoint folder {path.parent} has no {path.name}")
    header = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise UserError(f"{path}: tensor {name!r} has type {part.get_dtype()}, which is not read")
                header[name] = torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")
    except UserError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError) as e:
        raise UserError(f"{path} is damaged or not a safetensors file") from e
    return header


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the shards that `model.safetensors.index.json` lists.  Raises: UserError for a damaged index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        shards = sorted({str(name) for name in names})
        if any(Path(name).name != name for name in shards):
            raise ValueError("a shard outside the folder")
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index} is not an index of safetensors files") from None
    return [folder / name for name in shards]


@contextmanager
def limited_to(header: Mapping[str, Tensor], misfit: Callable[[str], UserError], exact: bool = True) -> Iterator[None]:
    """While this is open, a module that gets more, or larger, parameters than `header` has raises `misfit(reason)`.

    Args:
        exact: whether parameters have the shapes that they have in the file.  Modules of other libraries may store them
            in another form: these are held to numbers and to sums.

    Tensors larger than all of the file and `SPARE` together are refused before they are made.  Other threads are not concerned.
    """
    shapes, thread = {tuple(t.shape) for t in header.values()}, threading.get_ident()
    elements = sum(t.numel() for t in header.values())
    most = elements + SPARE if exact else 2 * elements + SPARE
    tensors = len(header) if exact else 4 * len(header) + 1000
    made = {"tensors": 0, "elements": 0, "modules": 0}

    def count_parameter(_: Any, name: str, value: Tensor) -> None:
        """Called by torch for each parameter that a module gets."""
        if threading.get_ident() != thread:
            return
        if exact and tuple(value.shape) not in shapes:
            raise misfit(f"the file has no tensor of shape {tuple(value.shape)}, which {name!r} would have")
        made["tensors"] += 1
        made["elements"] += value.numel()
        if made["tensors"] > tensors or made["elements"] > most:
            raise misfit(f"it asks for more than the {len(header)} tensors of the file")

    def count_buffer(_: Any, name: str, value: Tensor | None) -> None:
        """The same for buffers, of which those that are not stored may have any shape."""
        if threading.get_ident() == thread and value is not None:
            made["elements"] += value.numel()
            if made["elements"] > most + SPARE:
                raise misfit(f"it asks for more memory than the file fills, beginning with {name!r}")

    def count_module(*_: Any) -> None:
        """The same for modules inside of modules."""
        made["modules"] += threading.get_ident() == thread
        if made["modules"] > 10_000 + 100 * len(header):
            raise misfit(f"it asks for more layers than the {len(header)} tensors of the file can be of")

    handles = [
        hooks.register_module_parameter_registration_hook(count_parameter),
        hooks.register_module_buffer_registration_hook(count_buffer),
        hooks.register_module_module_registration_hook(count_module),
    ]
    try:
        with _Sizes(most, tensors, misfit):
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Sizes(TorchFunctionMode):
    """Refuses to make tensors of more than `most` elements, or more than `tensors` copies (as `nn.Transformer` makes of layers)."""

    def __init__(self, most: int, tensors: int, misfit: Callable[[str], UserError]):
        super().__init__()
        self.most, self.misfit = most, misfit
        self.copies_left, self.elements_left = tensors + 1000, most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in SHAPED or func is torch.arange:
            n = _steps(*args, **kwargs) if func is torch.arange else math.prod(_shape(*args, **kwargs))
            if n > self.most:
                raise self.misfit(f"it asks for {n:,} numbers at once, more than the file can explain")
        elif func is torch.Tensor.clone:
            self.copies_left -= 1
            self.elements_left -= args[0].numel()
            if self.copies_left < 0 or self.elements_left < 0:
                raise self.misfit("it asks for more layers than the tensors of the file can be of")
        return func(*args, **kwargs)


def _shape(*args: Any, size: Any = None, **_: Any) -> tuple[int, ...]:
    """The shape that one of `SHAPED` is asked for, as a sequence or as numbers."""
    shape = size if size is not None else args
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else tuple(shape)


def _steps(start: float, end: float | None = None, step: float = 1, **_: Any) -> int:
    """How many numbers `torch.arange` gives for these arguments."""
    start, end = (0, start) if end is None else (start, end)
    return max(0, math.ceil((end - start) / step))
