"""The TTS network by itself."""

import math
from pathlib import Path

import torch

from solfa.tts.model import Conditions
from solfa.tts.planner import Prosody
from solfa.tts.synthesizer import TTS


def test_frames_follow_the_plan(tts_folder: Path) -> None:
    torch.manual_seed(0)
    model = TTS.from_pretrained(tts_folder).model
    context = torch.randn(1, 3, 16)
    conditions = Conditions(torch.tensor([1]), torch.zeros(1, 3), torch.zeros(1, 6), torch.zeros(1))

    @torch.no_grad()
    def frames(pitch: float, slots: list[int]) -> torch.Tensor:
        prosody = Prosody(torch.tensor([slots]), torch.tensor([[0.0, pitch, 0.0]]), torch.zeros(1, 3))
        return model.frames(context, prosody, conditions, 6)[0]

    higher = (frames(5.0, [8, 8, 8]) - frames(0.0, [8, 8, 8])).abs().sum(-1)
    assert higher[2:4].min() > 1e-3 and higher[[0, 1, 4, 5]].max() < 1e-6  # only the frames of the second phone
    unvoiced = frames(math.nan, [8, 8, 8])
    assert torch.isfinite(unvoiced).all()
