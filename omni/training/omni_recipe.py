"""The settings of `solfa train omni`."""

from dataclasses import dataclass, field

from solfa.core.errors import UserError
from solfa.core.training import cosine_rate, wsd_rate
from solfa.omni.decoder.decoder import DecoderConfig
from solfa.omni.model.omni_model import BOOK_WEIGHTS
from solfa.omni.model.patches import LocalConfig
from solfa.omni.training.packing import SourceConfig
from solfa.omni.training.stability import StabilityConfig


@dataclass(frozen=True)
class OmniRecipe:
    """Settings of one training run, which ends after `steps` or `minutes`, whichever comes first (10,000 steps with neither).

    init: a checkpoint of the same shape to start from.
    tied: whether a model of text alone reads and writes with one table.
    mtp: blocks of multi-token prediction, whose losses weigh `mtp_weight` together.  One is trained first; a run whose `init`
        has one and that has more starts each from a copy.
    books: rows of audio in the grid, of `codebook_size` codes; 0 trains a model of text alone.
    row_steps, rows: a step of training reads `rows` rows of `row_steps` steps, `rows_at_once` in one pass of one process.
    schedule: "cosine", or "wsd" (warm up, stay, decay); `warmup` and `decay` are shares of the run.
    """

    data: dict[str, SourceConfig]
    out: str = "runs/omni"
    init: str | None = None
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    tied: bool = False
    mtp: int = 0
    mtp_weight: float = 0.3
    books: int = 0
    codebook_size: int = 1024
    patch_size: int = 4
    patch_encoder: LocalConfig = LocalConfig(layers=1)
    patch_decoder: LocalConfig = LocalConfig()
    text_weight: float = 1.0
    book_weights: tuple[float, ...] = BOOK_WEIGHTS
    row_steps: int = 512
    rows: int = 16
    rows_at_once: int = 16
    heldout: int = 100
    steps: int | None = None
    minutes: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.02
    decay: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.95)
    clip_norm: float = 1.0
    balance_rate: float = 1e-3
    precision: str = "bf16"
    checkpointing: bool = False
    stability: StabilityConfig = StabilityConfig()
    log_every: int = 10
    save_every: int = 500
    evaluate_every: int = 500
    evaluate_rows: int = 32
    seed: int = 0
    threads: int | None = None

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` in 0..1."""
        if self.schedule == "wsd":
            return self.learning_rate * wsd_rate(progress, self.warmup, self.decay)
        return self.learning_rate * cosine_rate(progress, self.warmup)

    def check(self) -> None:
        """Raises: UserError for settings that do not fit each other."""
        if self.schedule not in ("cosine", "wsd"):
            raise UserError(f"schedule should be cosine or wsd, not {self.schedule!r}")
        if self.precision not in ("no", "bf16"):
            raise UserError(f"precision should be bf16 or no, not {self.precision!r}")
        if self.books > len(self.book_weights):
            raise UserError(f"{self.books} books need as many book_weights, not {len(self.book_weights)}")
