"""How many floating-point operations a model needs, and how many the machine can do: model FLOPs utilisation (PaLM, arXiv 2204.02311).

A matrix of n weights costs 2 n operations for each vector, and 4 n more in the backward pass: "6 N" for each token.  Of
the weights only those that a token uses count, so not embeddings and only `top_k` experts.  Attention adds two products
for each pair of a query and a key within its reach.  What is computed beyond that (masked pairs, padding, layers run again
for gradient checkpointing) does not count: the model gains nothing by it.
"""

import time
from collections.abc import Sequence

import torch
from torch import nn

from solfa.omni.decoder.decoder import DecoderLayer, HybridDecoder
from solfa.omni.decoder.moe import MoE
from solfa.omni.model.patches import LocalBlock, PatchDecoder, PatchEncoder

TRAINING = 3  # forward, and twice that backward

# dense bfloat16, from the makers' data sheets, by what torch calls the device
GPU_PEAKS = {"H200": 989e12, "H100": 989e12, "H20": 148e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "4090": 165e12, "3090": 71e12}  # fmt: skip


def attention_pairs(steps: int, window: int | None) -> int:
    """Pairs of query and key in a causal sequence of so many steps, each with the last `window` of them (None: all)."""
    if window is None or steps <= window:
        return steps * (steps + 1) // 2
    return window * (window + 1) // 2 + (steps - window) * window


def decoder_flops(decoder: HybridDecoder, lengths: Sequence[int]) -> float:
    """Operations of a forward pass over documents of so many steps each."""
    total, steps = 0.0, sum(lengths)
    for i, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        c = decoder.config.attention_of(i)
        pairs = sum(attention_pairs(n, c.window) for n in lengths)
        total += 2 * steps * (matrices(layer.attention) + _active(layer.ffn)) + 2 * pairs * c.heads * (
            c.qk_dim + c.v_dim
        )
    return total


def patch_flops(encoder: PatchEncoder, decoder: PatchDecoder, read: int, written: int) -> float:
    """Operations of a forward pass in which so many patches are read and so many are written; without conditions."""
    reading = _local(encoder.blocks, decoder.patch_size) + 2 * matrices(encoder.out)
    heads = decoder.heads.weight.numel() + (0 if decoder.heads.enter is None else decoder.heads.enter.numel())
    writing = _local(decoder.blocks, decoder.steps) + 2 * matrices(decoder.state) + 2 * decoder.patch_size * heads
    return read * reading + written * writing


def matrices(module: nn.Module) -> int:
    """Weights that every vector is multiplied by."""
    return sum(p.numel() for p in module.parameters() if p.dim() > 1)


def _active(ffn: nn.Module) -> float:
    if not isinstance(ffn, MoE):
        return matrices(ffn)
    router = matrices(ffn.router)
    return router + (matrices(ffn) - router) * ffn.config.top_k / ffn.config.experts


def _local(blocks: nn.ModuleList, steps: int) -> float:
    """Of one patch; these small blocks compute every pair of steps."""
    total = 0.0
    for block in blocks:
        assert isinstance(block, LocalBlock)
        total += 2 * steps * matrices(block) + 4 * steps * steps * block.heads * block.head_dim
    return total


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """-> (operations a second that matrix products of this type reach at best, where that is known from)."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peak in GPU_PEAKS.items():
            if part in name and dtype == torch.bfloat16:
                return peak, f"{name}, data sheet"
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, dtype=dtype, device=device)
    seconds: list[float] = []
    while len(seconds) < 6 and sum(seconds) < 1:  # one product takes seconds on CPUs without bfloat16 instructions
        start = time.perf_counter()
        b = a @ a
        b[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds), "measured"
