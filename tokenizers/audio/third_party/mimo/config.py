"""The settings in the published `config.json` of MiMo-Audio-Tokenizer, under their own names."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from solfa.core import checkpoints, recipe
from solfa.core.errors import UserError

NORMS: dict[str, Callable[[int], nn.Module]] = {"LayerNorm": nn.LayerNorm, "RMSNorm": partial(nn.RMSNorm, eps=1e-6)}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}

LARGEST = 1 << 20  # of all sizes: far above useful ones
SEGMENT = 6000  # mel frames that are encoded, and decoded, at a time: 60 s, where the reference cuts long audio

# Of the file, but of no use here: for training, never read by the reference, or Hugging Face's own.
IGNORED = {"max_audio_seconds", "scale_embedding", "threshold_ema_dead_code", "position_embedding_type"}
IGNORED |= {"model_type", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}


@dataclass(frozen=True)
class MiMoAudioTokenizerConfig:
    """The defaults are the published tokenizer, XiaomiMiMo/MiMo-Audio-Tokenizer.

    A window is (frames back, frames ahead), -1 for all.
    """

    sampling_rate: int = 24_000
    hop_length: int = 240  # samples per mel frame: 100 Hz
    nfft: int = 960  # of the mel spectrogram, and of the vocoder's head
    window_size: int = 960  # of the mel spectrogram
    n_mels: int = 128
    fmin: float = 0.0
    fmax: float | None = None

    stride_size: int = 2  # mel frames per frame of the encoder: 50 Hz
    avg_pooler: int = 2  # of which one code frame has so many: 25 Hz
    kernel_size: int = 3
    d_model: int = 1280
    activation_function: str = "gelu"
    ln_type: str = "LayerNorm"
    rope_type: str = "default"
    rope_theta: float = 10_000.0

    encoder_layers: int = 32
    encoder_skip_layer_id: int | None = 3  # after so many layers, what the last one's output is added to
    encoder_attention_heads: int = 20
    encoder_ffn_dim: int = 5120
    encoder_causal: bool = False
    encoder_attn_window_size: tuple[int, ...] = (-1, -1)

    num_quantizers: int = 20
    codebook_size: tuple[int, ...] = (1024, 1024) + (128,) * 18  # further books are as large as the last

    decoder_layers: int = 32
    decoder_attention_heads: int = 20
    decoder_ffn_dim: int = 5120
    decoder_kernel_size: int = 3
    decoder_stride_size: int = 2
    decoder_causal: bool = True
    decoder_attn_window_size: tuple[int, ...] = (-1, -1)

    vocoder_dim: int = 256
    vocoder_intermediate_dim: int = 1024
    vocoder_num_layers: int = 16
    vocoder_attention_heads: int = 16
    vocoder_attn_window_size: tuple[int, ...] = (40, 10)
    vocoder_padding: str = "same"

    @property
    def stride(self) -> int:
        """Mel frames per code frame."""
        return self.stride_size * self.avg_pooler

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes in each book."""
        listed = self.codebook_size[: self.num_quantizers]
        return listed + listed[-1:] * (self.num_quantizers - len(listed))

    @property
    def encoder_window(self) -> tuple[int, ...]:
        """Frames back and ahead in the encoder's attention; none ahead where it is causal."""
        return self.encoder_attn_window_size[:1] + (0,) if self.encoder_causal else self.encoder_attn_window_size

    @property
    def decoder_window(self) -> tuple[int, ...]:
        """The same of the decoder."""
        return self.decoder_attn_window_size[:1] + (0,) if self.decoder_causal else self.decoder_attn_window_size

    def unsupported(self) -> str | None:
        """The first setting that the modules here do not support, if any."""
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.type in (int, "int")}
        if odd := next((name for name, value in numbers.items() if not 1 <= value <= LARGEST), None):
            return f"{odd} {numbers[odd]}"
        windows = (self.encoder_attn_window_size, self.decoder_attn_window_size, self.vocoder_attn_window_size)
        heads = (self.encoder_attention_heads, self.decoder_attention_heads, self.vocoder_attention_heads)
        dims = (self.d_model, self.d_model, self.vocoder_dim)
        wrong = {
            f"activation_function {self.activation_function!r}": self.activation_function not in ACTIVATIONS,
            f"ln_type {self.ln_type!r}": self.ln_type not in NORMS,
            f"rope_type {self.rope_type!r}": self.rope_type != "default",
            f"vocoder_padding {self.vocoder_padding!r}": self.vocoder_padding != "same",
            f"kernel_size {self.kernel_size}": self.kernel_size != 3,
            f"decoder_stride_size {self.decoder_stride_size}": self.decoder_stride_size != self.stride_size,
            f"decoder_kernel_size {self.decoder_kernel_size}": self.decoder_kernel_size < self.decoder_stride_size,
            f"nfft {self.nfft}": self.nfft < 2 * self.hop_length or (self.nfft - self.hop_length) % 2 == 1,
            f"window_size {self.window_size}": self.window_size > self.nfft,
            f"{self.stride} mel frames per code": SEGMENT % self.stride != 0,
            f"codebook_size {list(self.codebook_size)}": not self.codebook_size or min(self.codebook_size) < 1,
            f"attention windows {windows}": any(len(w) != 2 or min(w) < -1 for w in windows),
            f"{heads} heads for widths {dims}": any(d % (2 * h) for d, h in zip(dims, heads, strict=True)),
        }
        return next((what for what, is_wrong in wrong.items() if is_wrong), None)


def read_config(path: Path) -> MiMoAudioTokenizerConfig:
    """Raises: UserError where the file is missing, unreadable, another model's, or asks for what is not here."""
    values = checkpoints.read_json(path)
    names = [f.name for f in dataclasses.fields(MiMoAudioTokenizerConfig)]
    missing = [name for name in names if not isinstance(values, dict) or name not in values]
    if missing:
        raise UserError(f"{path} is not of a MiMo-Audio-Tokenizer: it has no {missing[0]!r}")
    values = {key: value for key, value in values.items() if key not in IGNORED}
    unknown = sorted(values.keys() - set(names))
    if unknown:
        raise UserError(f"{path} has {unknown[0]!r}, which is no setting of a MiMo-Audio-Tokenizer here")
    if isinstance(values["codebook_size"], int):
        values["codebook_size"] = [values["codebook_size"]]
    config = recipe.build(MiMoAudioTokenizerConfig, values, str(path))
    unsupported = config.unsupported()
    if unsupported:
        raise UserError(f"{path} asks for {unsupported}, which this MiMo-Audio-Tokenizer cannot do")
    return config
