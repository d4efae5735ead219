"""Fitting the learned prior: it finds what there is to find, survives being rounded, and the command keeps what files need."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from solfa.cli import run
from solfa.tokenizers.audio.container.prior import FILE, LearnedPrior, load_prior
from solfa.tokenizers.audio.container.sfa import Recording, pack, unpack
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.shared_options import header_of
from solfa.tokenizers.datasets.shards.shards import ShardWriter
from solfa.tokenizers.training.train_prior import Clips, contexts, fit_book, kbps, to_integers


def drifting(codec: AudioTokenizer, clips: int, frames: int = 60) -> list[Tensor]:
    """Codes (books, frames) of latents that drift slowly, as those of speech do."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(clips, frames, codec.config.codebook_dim, generator=generator)
    for frame in range(1, frames):
        latents[:, frame] = 0.95 * latents[:, frame - 1] + 0.3 * latents[:, frame]
    return list(codec.quantizer.encode(latents))


def test_what_drifts_is_predicted_and_rounding_costs_nothing(tiny_codec: AudioTokenizer) -> None:
    codebooks = tiny_codec.quantizer.codebooks
    drifted = drifting(tiny_codec, 30)
    learned, unseen = drifted[:24], drifted[24:]
    clips, others = Clips.joined(learned), Clips.joined(unseen)
    fits = [fit_book(codebooks, clips, book, tiny_codec.lm_books, 50) for book in range(4)]
    tables = to_integers(codebooks, fits, clips)
    prior = LearnedPrior(codebooks.numpy(), tiny_codec.codebook_sizes, tables)
    integers = kbps(prior, tiny_codec, unseen, 4)
    nats = 0.0
    for book, fit in enumerate(fits):
        x = contexts(codebooks, others, torch.arange(others.codes.shape[1]), book, 4)
        nats += F.cross_entropy(
            (x @ fit.weight.T) @ (codebooks[book] @ fit.project).T + fit.bias, others.codes[book]
        ).item()
    floats = nats / torch.log(torch.tensor(2.0)).item() * tiny_codec.frame_rate / 1000
    assert integers == pytest.approx(floats, rel=0.01)
    assert integers < 0.75 * tiny_codec.bitrate() / 1000


def write_tokens(codec: AudioTokenizer, folder: Path, clips: list[Tensor]) -> None:
    with ShardWriter(folder, header_of(codec, len(clips[0]))) as writer:
        for number, codes in enumerate(clips):
            frames = codes.shape[1]
            row = {"id": str(number), "audio": f"{number}.wav", "codes": codes.numpy(), "frames": frames}
            writer.add({**row, "duration": frames / 25, "samples": 960 * frames, "sample_rate": 24_000})
        writer.flush()


def test_the_command(
    tiny_codec: AudioTokenizer, tiny_codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_codec_folder, tmp_path / "codec")
    codec = AudioTokenizer.own(tmp_path / "codec")
    clips = drifting(codec, 20)
    write_tokens(codec, tmp_path / "tokens", clips)
    words = ["train", "prior", str(tmp_path / "tokens"), "--codec", str(tmp_path / "codec"), "--steps", "60"]
    assert run(words) == 0
    out = capsys.readouterr().out
    measured = [float(kbps) for kbps in re.findall(r"([\d.]+) kbps of", out)]
    assert len(measured) == 2
    assert measured[0] < 0.25 * 2, "2 books of 5 bits at 25 Hz"
    prior = load_prior(codec, tmp_path / "codec")
    assert prior is not None
    recording = Recording(clips[0], 960 * clips[0].shape[1], 24_000)
    data = pack(codec, recording, prior)
    assert len(data) < len(pack(codec, recording))
    assert torch.equal(unpack(data, codec, prior).codes, clips[0])
    assert run(words) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert run([*words, "--overwrite"]) == 0


def test_tokens_that_do_not_do(
    tiny_codec: AudioTokenizer, tiny_codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "prior", "--codec", str(tiny_codec_folder)]
    write_tokens(tiny_codec, tmp_path / "few", [clip[:2] for clip in drifting(tiny_codec, 2)])
    assert run([*words, str(tmp_path / "few")]) == 2
    assert "holds 2 books, but the prior needs 4" in capsys.readouterr().err
    write_tokens(tiny_codec, tmp_path / "one", drifting(tiny_codec, 1))
    assert run([*words, str(tmp_path / "one")]) == 2
    assert "holds 1 clip" in capsys.readouterr().err
    assert not (tiny_codec_folder / FILE).exists()
