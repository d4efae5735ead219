"""What is measured before anything is learned, and the linear code that learning starts from."""

import math

import pytest
import torch

from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.features import (
    FLOOR,
    HIGHEST_F0,
    LOWEST_F0,
    MEAN_F0,
    AcousticFeatures,
    Features,
    from_loudness,
    log_mel,
    loudness,
)
from solfa.tokenizers.audio.model.source_filter import pulse_train
from solfa.tokenizers.training.fitting import fit_transforms

FEATURES = AcousticFeatures(24_000, 240, 100, 60, 96)


@pytest.mark.parametrize("f0", [70.0, 123.0, 210.0, 400.0])
def test_correlation_peaks_at_the_period(f0: float) -> None:
    x = 0.1 * pulse_train(torch.full((1, 60), f0), 240, 24_000)
    _, correlation = FEATURES(x)
    assert correlation.shape == (1, 60, 96)
    period = f0 >= LOWEST_F0 * 2  # half of F0 is as good a period, where its lag is within reach
    at = correlation[0, 20:40].mean(0)
    bins = torch.exp(FEATURES.log_f0) * MEAN_F0
    near = (bins / f0 - 1).abs() < 0.03
    assert at[near].max() > 0.6 * at[bins > 0.7 * f0].max()
    assert not period or at[near].max() > at[(bins > 1.2 * f0) & (bins < 1.8 * f0)].max()


def test_pitch_is_read_between_bins() -> None:
    step = math.log(HIGHEST_F0 / LOWEST_F0) / 95
    truth = torch.linspace(-0.7, 1.2, 50)
    logits = -0.5 * ((truth[:, None] - FEATURES.log_f0) / step).square()
    torch.testing.assert_close(FEATURES.pitch(logits), truth, atol=0.02 * step, rtol=0)


def test_loudness_has_an_inverse_down_to_the_floor() -> None:
    mel = torch.tensor([0.0, 1e-3, 1.0, 50.0])
    x = log_mel(mel)
    torch.testing.assert_close(from_loudness(loudness(x)), x)
    assert from_loudness(torch.tensor([-1.0, 0.0])).tolist() == pytest.approx([log_mel(torch.tensor(0.0)).item()] * 2)
    assert (
        loudness(log_mel(torch.tensor(8.0 - FLOOR))) / loudness(log_mel(torch.tensor(1.0 - FLOOR)))
    ).item() == pytest.approx(2.0, rel=1e-4)


def test_fitted_transforms_code_speech_before_any_training(tiny_codec: AudioTokenizer) -> None:
    torch.manual_seed(0)
    codec = AudioTokenizer(tiny_codec.config).eval()
    f0 = torch.tensor([110.0, 150.0, 210.0])[:, None].expand(3, 128)
    swell = 1.1 + torch.sin(torch.arange(32 * 960) / 1500 * torch.tensor([[1.0], [1.5], [2.0]]))
    wav, log_f0 = 0.05 * swell * pulse_train(f0, 240, 24_000), (f0 / MEAN_F0).log()
    known = log_f0, torch.ones(3, 128)
    fit_transforms(codec, wav, *known)
    with torch.inference_mode():
        z, heard, _ = codec.encoder(wav, known)
        made = codec.decoder(z)
        errors = [
            (loudness(a.spectra) - loudness(heard.spectra)).square().mean()
            for a in (made, codec.decoder(torch.zeros_like(z)))
        ]
        assert errors[0] < 0.1 * errors[1]
        torch.testing.assert_close(made.log_f0, log_f0, atol=0.05, rtol=0)
        assert made.voicing.mean() > 0.9
        # Least squares of the log envelope: right on average over time, in every band.
        gains = codec.vocoder.transform(Features(heard.spectra, *known).stacked())
        levels = codec.vocoder.head.levels(wav)
    torch.testing.assert_close(gains.mean((0, 1)), levels.mean((0, 1)), atol=0.15, rtol=0)
    assert (gains - levels).abs().mean() < 0.1
