"""The settings of `solfa train codec`."""

from dataclasses import dataclass, field

from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.training.stages import STAGES

POSITIVE = "batch crop_seconds learning_rate fit_crops wave_crops workers".split()


@dataclass(frozen=True)
class CodecRecipe:
    """Settings of one training run, which ends after `steps` or `minutes`, whichever comes first.

    data: corpora, in any layout that `solfa tokenize` reads.
    init: checkpoint to continue from; `grow`: its numbers of blocks, layers or wave_books to raise.
    init_vocoder: checkpoint to take the vocoder from, where stages were trained side by side.
    heldout_percent: of the speakers; `always_train`: speakers that are never held out.
    stages: shares of the run.
    fit_crops: from which the linear transforms and the first codebooks are fitted; `wave_crops`: the books for the waveform.
    known_pitch: steps in which the encoder is given the measured F0 while it learns to estimate it.
    auditory_weight: of the loss modelled on PESQ, wherever sound is made.
    adversarial_from: share of the decoder stage after which the discriminators join; 1 = never.
    average_decay: of the averaged weights; the default is a window of 200 steps: a longer one drags the start of a short run along.
    """

    data: tuple[str, ...]
    out: str = "runs/codec"
    model: AudioTokenizerConfig = AudioTokenizerConfig()
    init: str | None = None
    grow: dict[str, int] = field(default_factory=dict)
    init_vocoder: str | None = None
    heldout_percent: float = 8.0
    always_train: tuple[str, ...] = ()
    stages: dict[str, float] = field(default_factory=lambda: {"tokens": 0.4, "vocoder": 0.2, "decoder": 0.4})
    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    crop_seconds: float = 1.28
    learning_rate: float = 7e-4
    fit_crops: int = 800
    wave_crops: int = 1500
    known_pitch: int = 300
    commitment: float = 0.05
    auditory_weight: float = 0.0
    adversarial_from: float = 1.0
    adversarial_weight: float = 0.1
    feature_weight: float = 0.5
    adversarial_seconds: float = 0.32
    average_decay: float = 0.995
    log_every: int = 50
    save_every: int = 250
    evaluate_every: int = 1000
    evaluate_clips: int = 12
    precision: str = "bf16"
    seed: int = 0
    threads: int | None = None
    workers: int = 2

    def check(self) -> None:
        """Raises: UserError for settings that train nothing."""
        if not self.data:
            raise UserError("the recipe names no data; add data=[FOLDER, ...]")
        if self.precision not in ("no", "fp16", "bf16"):
            raise UserError(f"precision should be no, fp16 or bf16, not {self.precision}")
        for name in POSITIVE:
            if not (value := getattr(self, name)) > 0:
                raise UserError(f"{name} should be more than 0, not {value}")
        if set(self.stages) - set(STAGES) or not sum(self.stages.values()) > 0:
            raise UserError(f"stages should be shares of {', '.join(STAGES)}, not {self.stages}")
