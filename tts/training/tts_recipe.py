"""The settings of `solfa train tts`."""

from dataclasses import dataclass, field

from solfa.core.errors import UserError
from solfa.tts.model import TTSConfig


@dataclass(frozen=True)
class TTSRecipe:
    """Settings of one training run, which ends after `steps` or `minutes`, whichever comes first (20,000 steps with neither).

    data: token shards of a prepared manifest; codec: folder of the audio tokenizer that made them, where it is not a bundled one.
    init: checkpoint to start from; one that wrote another tokenizer's codes keeps all but their meaning.
    voices: preset voices to learn: name -> a few words about them.
    mix: weight of each source or voice, 1 where none is given; finish: the weights from the share `finish_from` of the run on.
    batch_seconds: of audio in a batch; max_seconds: longer clips are left out.
    describe_share: of the clips of preset voices, given as the described voice.
    average_decay: of the averaged weights; the default is a window of 100 steps: a longer one drags the start of a short run along.
    """

    data: str
    codec: str | None = None
    init: str | None = None
    out: str = "runs/tts"
    model: TTSConfig = TTSConfig()
    voices: dict[str, str] = field(default_factory=dict)
    mix: dict[str, float] = field(default_factory=dict)
    finish: dict[str, float] = field(default_factory=dict)
    finish_from: float = 0.7
    steps: int | None = None
    minutes: float | None = None
    batch_seconds: float = 96.0
    max_seconds: float = 12.0
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    planner_weight: float = 1.0
    describe_share: float = 0.15
    average_decay: float = 0.99
    log_every: int = 50
    save_every: int = 200
    evaluate_every: int = 500
    precision: str = "bf16"
    seed: int = 0
    threads: int | None = None

    def check(self) -> None:
        """Raises: UserError for settings that train nothing."""
        if self.precision not in ("no", "fp16", "bf16"):
            raise UserError(f"precision should be no, fp16 or bf16, not {self.precision}")
        for name in ("batch_seconds", "max_seconds"):
            if not (value := getattr(self, name)) > 0:
                raise UserError(f"{name} should be more than 0, not {value}")
