"""The sizes of the audio tokenizer, and which of them make a codec."""

from dataclasses import dataclass

from solfa.core.errors import UserError
from solfa.tokenizers.audio.resample import RATES

# The largest sizes are far from useful ones, and small enough that tables, caches and searches of that size fit into memory;
# sizes of weights are limited by the file that holds them.
MANY = 1 << 20
LIMITS = (
    ("sample_rate", RATES.start, RATES.stop - 1), ("feature_hop", 2, 512), ("stride", 1, 64),
    ("books", 1, 1024), ("lm_books", 1, 1024), ("codebook_size", 1, MANY), ("codebook_dim", 1, MANY), ("beam", 1, 64),
    ("dim", 1, MANY), ("frame_dim", 1, MANY), ("heads", 1, 1024), ("window", 1, 2048),
    ("encoder_blocks", 0, 12), ("encoder_layers", 0, 1024), ("decoder_layers", 0, 1024), ("decoder_blocks", 0, 12),
    ("vocoder_blocks", 0, 1024), ("mels", 1, 1024), ("fine_mels", 1, 512), ("pitch_bins", 1, 1024), ("bands", 2, 1024),
    ("subframes", 1, 64), ("head_n_fft", 2, 8192), ("wave_books", 0, 4096), ("wave_values", 1, MANY), ("wave_step", 1, 2048),
    ("wave_refine", 0, MANY), ("wave_past", 0, 1024), ("wave_from", 0, 4096),
)  # fmt: skip


@dataclass(frozen=True)
class AudioTokenizerConfig:
    """The default is the bundled checkpoint `codec-24khz`.  Raises: UserError for sizes that make no codec."""

    sample_rate: int = 24_000
    feature_hop: int = 240  # samples per feature frame: 100 Hz
    stride: int = 4  # feature frames per code frame: 25 Hz
    books: int = 12  # codebooks of the residual VQ (num_codebooks, n_q elsewhere)
    lm_books: int = 8  # that language models write: 8 books x 10 bits x 25 Hz = 2 kbps
    codebook_size: int = 1024
    codebook_dim: int = 128
    beam: int = 3  # partial sums that the search for codes keeps
    dim: int = 256  # width at 100 Hz
    frame_dim: int = 384  # width at 25 Hz
    heads: int = 6
    window: int = 50  # frames: 2 s
    encoder_blocks: int = 3
    encoder_layers: int = 1
    decoder_layers: int = 2
    decoder_blocks: int = 4
    vocoder_blocks: int = 8
    mels: int = 100  # of the coarse spectrogram (1024-sample window)
    fine_mels: int = 60  # of the fine one (512-sample window, twice per feature frame)
    pitch_bins: int = 96
    bands: int = 80  # of the filters that shape pulses and noise
    subframes: int = 2  # filters per feature frame: 200 Hz
    head_n_fft: int = 512
    wave_books: int = 52  # beyond `books`, for the waveform itself: 13 kbps
    wave_values: int = 8  # coefficients that one of them codes
    wave_step: int = 320  # samples per step of their transform: 13 ms
    wave_refine: int = 24  # width of the network that refines what they give; 0 for none
    wave_past: int = 3  # steps before each that are its inputs too
    wave_from: int = 7  # fewer of them sound worse than none, and are passed over

    @property
    def hop(self) -> int:
        """Samples per code frame."""
        return self.feature_hop * self.stride

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.hop

    def __post_init__(self) -> None:
        for name, least, most in LIMITS:
            if not least <= (value := getattr(self, name)) <= most:
                raise UserError(f"{name} should be from {least} to {most}, not {value}")
        rules = {
            f"lm_books {self.lm_books} should be among the {self.books} books": self.lm_books <= self.books,
            f"beam {self.beam} should be at most codebook_size {self.codebook_size}": self.beam <= self.codebook_size,
            f"frame_dim {self.frame_dim} should be a multiple of twice the {self.heads} heads": self.frame_dim % (2 * self.heads) == 0,
            f"feature_hop {self.feature_hop} should be even": self.feature_hop % 2 == 0,
            f"feature_hop {self.feature_hop} should be a multiple of subframes {self.subframes}": self.feature_hop % self.subframes == 0,
            f"head_n_fft {self.head_n_fft} should be even and at least feature_hop {self.feature_hop}": (
                self.head_n_fft % 2 == 0 and self.head_n_fft >= self.feature_hop
            ),
            f"a frame of {self.hop} samples should be a multiple of wave_step {self.wave_step}": (
                not self.wave_books or self.hop % self.wave_step == 0
            ),
            f"wave_values {self.wave_values} should be at most the {self.hop} coefficients of a frame": (
                not self.wave_books or self.wave_values <= self.hop
            ),
        }  # fmt: skip
        for sentence, kept in rules.items():
            if not kept:
                raise UserError(sentence)
