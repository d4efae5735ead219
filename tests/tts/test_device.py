"""Speaking on another device than the CPU, on machines that have none.

`SecondTensor` is a tensor that calls itself a CUDA tensor and computes on the CPU.  As on a GPU, it cannot be mixed with
tensors of the CPU, and `.numpy()` fails.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from solfa.tts import synthesizer
from solfa.tts.synthesizer import TTS

CPU, SECOND = torch.device("cpu"), torch.device("cuda:0")
MAY_MIX = {"aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_"}


class SecondTensor(torch.Tensor):
    """A tensor on the second device; `held` has its values on the CPU."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "SecondTensor":
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=SECOND,
        )
        made.held = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return compute(func, args, kwargs or {})


def inner(values: Any) -> Any:
    """The same arguments with tensors of the CPU."""
    return tree_map_only(SecondTensor, lambda x: x.held, values)


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on the CPU, after the check that a GPU would make; its results are on the second device."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    name, device = func._schema.name, kwargs.get("device")
    here = any(isinstance(x, SecondTensor) for x in tensors)
    if here and name not in MAY_MIX and any(x.dim() and not isinstance(x, SecondTensor) for x in tensors):
        raise RuntimeError(f"{func}: tensors on two devices")
    if device is not None:
        here, kwargs = device.type == SECOND.type, kwargs | {"device": CPU}
    with torch.inference_mode(False), torch.no_grad():
        out = func(*inner(args), **inner(kwargs))
        if func._schema.is_mutable:
            return args[0]
        return tree_map_only(torch.Tensor, SecondTensor, out) if here else out


class Factories(TorchFunctionMode):
    """Functions with a device among their arguments, which torch would send to a GPU before it dispatches them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = any(isinstance(x, torch.device) and x.type == SECOND.type for x in (*args, *kwargs.values()))
        if func is F.embedding_bag and isinstance(args[0], SecondTensor):  # makes a tensor on its argument's device
            assert isinstance(args[1], SecondTensor)
        elif not named or func is torch._C._nn._parse_to:  # type: ignore[attr-defined]
            return func(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            args, kwargs = tree_map_only(torch.device, lambda _: CPU, (args, kwargs))
            return tree_map_only(torch.Tensor, SecondTensor, func(*inner(args), **inner(kwargs)))


@pytest.fixture
def second_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A second device while the test runs; a generator of the CPU takes the place of one on it."""
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    monkeypatch.setattr(synthesizer, "pick", torch.device)
    monkeypatch.setattr(synthesizer, "seeded", lambda seed, device: torch.Generator().manual_seed(seed))
    with Factories():
        yield SECOND
    torch.__future__.set_overwrite_module_params_on_conversion(before)


def test_the_second_device_is_as_strict_as_a_gpu(second_device: torch.device) -> None:
    there = torch.ones(3).to(second_device)
    assert there.device == second_device and (there + there).sum().item() == 6
    assert torch.equal((there * 2).cpu(), torch.full((3,), 2.0))
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(3)
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()


def test_speech_is_the_same_on_another_device(second_device: torch.device, tts_folder: Path) -> None:
    text, style = "Go [pause] on.", "an old man, whispering"
    tts = TTS.from_pretrained(tts_folder, device=str(second_device))
    assert tts.device == second_device == tts.codec.device
    there = tts.say(text, style, seed=3)
    assert tts.to("cpu").device == CPU
    here = tts.say(text, style, seed=3)
    assert np.array_equal(there.samples, here.samples)
    assert (there.words, there.style) == (here.words, here.style)
