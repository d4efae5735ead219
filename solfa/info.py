"""`solfa info`: versions, device, bundled checkpoints and optional parts, on one page."""

import os
import platform
from importlib import metadata

import torch

import solfa
from solfa.cli import extras
from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.tokenizers.audio.play import REMEDIES, can_play

LIBRARIES = ("torch", "torchaudio", "numpy", "soundfile", "soxr", "av", "pyarrow", "tokenizers")


def info() -> None:
    """Show versions, device, bundled checkpoints and which optional parts are installed."""
    lines = [
        ("solfa", f"{solfa.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("libraries", ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)),
        ("device", device_line()),
        *(("checkpoint", checkpoint_line(name)) for name in checkpoints.bundled() or ["none bundled"]),
        *codec_lines(),
        *cache_lines(),
        *(("extra", extra_line(extra, distributions)) for extra, distributions in extras().items()),
    ]
    shown = ""
    for label, text in lines:
        print(f"{label if label != shown else '':<12}{text}")
        shown = label


def device_line() -> str:
    cpu = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    if not torch.cuda.is_available():
        return cpu
    gpu = torch.cuda.get_device_properties(0)
    return f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB (CUDA {torch.version.cuda}); {cpu}"


def checkpoint_line(name: str) -> str:
    """`codec-24khz  14.1 MiB`, or what is wrong with it."""
    folder = checkpoints.BUNDLED / name
    if not (folder / "model.safetensors").is_file():
        return name if name == "none bundled" else f"{name}  damaged: it has no model.safetensors"
    size = sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    return f"{name}  {size / 2**20:.1f} MiB"


def codec_lines() -> list[tuple[str, str]]:
    """The default codec's rates; nothing when there is none."""
    from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer

    try:
        codec = AudioTokenizer.own()
    except UserError as e:
        return [("codec", str(e))]
    steps = sorted({1, 2, 4, 8, codec.books // 2, codec.books})
    rates = ", ".join(f"{n} books {codec.bitrate(n) / 1000:g}" for n in steps if n <= codec.books)
    shape = f"{codec.sample_rate} Hz, {codec.frame_rate:g} frames/s, {codec.books} books of {codec.codebook_size}"
    # Streams wait for so much sound, whatever the machine: the encoder for a frame and what it looks ahead.
    delays = (codec.hop, codec.encoder_delay, codec.decoder_delay, codec.wave_delay)
    frame, ahead, behind, wave = (1000 * n / codec.sample_rate for n in delays)
    latency = f"encoder {frame + ahead:.0f} ms (frame {frame:.0f}, look-ahead {ahead:.0f}), decoder {behind:.0f} ms"
    if codec.wave:
        latency += f" ({wave:.0f} with books for the waveform)"
    return [
        ("codec", f"{codec.name}: {shape}, fingerprint {codec.fingerprint}"),
        ("codec", f"kbps: {rates}"),
        ("codec", f"algorithmic latency: {latency}"),
    ]


def cache_lines() -> list[tuple[str, str]]:
    """Memory that the default TTS model's decoder keeps of the steps before; nothing when there is no model."""
    from solfa.core import recipe
    from solfa.omni.decoder.cache import cache_parts
    from solfa.tts.model import TTSConfig
    from solfa.tts.synthesizer import KIND

    try:
        folder = checkpoints.resolve(None, KIND)
        values = checkpoints.read_config(folder, KIND)
    except UserError as e:
        return [("cache", str(e))]
    decoder = recipe.build(TTSConfig, values, str(folder / "config.json")).decoder
    fixed, growing = cache_parts(decoder)
    sliding = decoder.layers - len(decoder.full_layers)
    return [("cache", f"{folder.name}: {fixed / 2**10:.0f} KiB for {sliding} sliding layers, {growing:,} bytes a step for "
             f"{len(decoder.full_layers)} full ones")]  # fmt: skip


def extra_line(extra: str, distributions: list[str]) -> str:
    """`train  installed`, or which distributions are missing and how to get them."""
    missing = [name for name in distributions if not _installed(name)]
    state = f'without {", ".join(missing)}: pip install ".[{extra}]"' if missing else "installed"
    if extra == "play" and not missing and not can_play():
        state = f"installed, but the PortAudio library is not: {REMEDIES}"
    return f"{extra:<8}{state}"


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
