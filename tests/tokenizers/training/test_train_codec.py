"""Real training runs of a few steps on a tiny model: they learn, and a resumed one equals an undisturbed one."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from solfa.cli import run as solfa
from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import read_audio, write_wav
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.audio.model.quantizer import ResidualQuantizer
from solfa.tokenizers.training import train_codec as training
from solfa.tokenizers.training.clips import Batch, ClipStore, is_heldout
from solfa.tokenizers.training.codec_recipe import CodecRecipe
from solfa.tokenizers.training.fitting import grow
from solfa.tokenizers.training.losses import MultiResolutionMelLoss
from solfa.tokenizers.training.stages import CodecInTraining, stage_at
from solfa.tokenizers.training.train_codec import run, train

LEARNER, STRANGER = (next(n for n in map(str, range(100)) if is_heldout(n, 50.0) is held) for held in (False, True))


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Its precision is fixed for a process; other tests may want another."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def recipe(speech_clip: Path, tiny_codec: AudioTokenizer, tmp_path: Path) -> CodecRecipe:
    """One speaker to learn from and one held out, in steps that take milliseconds."""
    for speaker in (LEARNER, STRANGER):
        write_wav(tmp_path / "data" / speaker / "clip.wav", read_audio(speech_clip).samples, 24_000)
    return CodecRecipe(
        data=(str(tmp_path / "data"),), out=str(tmp_path / "run"), model=tiny_codec.config, heldout_percent=50.0, steps=6, batch=2,
        crop_seconds=0.32, learning_rate=3e-3, fit_crops=50, known_pitch=2, adversarial_from=0.5, adversarial_seconds=0.12, save_every=2,
        evaluate_clips=0, precision="no", workers=1,
    )  # fmt: skip


def state_of(recipe: CodecRecipe) -> dict[str, torch.Tensor]:
    files = sorted(Path(recipe.out, "state").glob("*.safetensors"))
    assert len(files) == 5
    return {f"{path.stem}/{k}": v for path in files for k, v in load_file(path).items()}


def test_training_lowers_the_mel_loss(recipe: CodecRecipe, speech_clip: Path) -> None:
    recipe = dataclasses.replace(recipe, steps=90, adversarial_from=1.0, save_every=1000, evaluate_clips=1)
    folder = run(recipe)
    wav = torch.from_numpy(read_audio(speech_clip).samples)
    wav = 0.6 * wav / wav.abs().max()
    mel_loss = MultiResolutionMelLoss(24_000)
    torch.manual_seed(0)
    before, after = AudioTokenizer(recipe.model).eval(), AudioTokenizer.own(folder)
    costs = [mel_loss(m.decode(m.encode(wav, 24_000))[:, : len(wav)], wav[None]).item() for m in (before, after)]
    assert costs[1] < 0.8 * costs[0]
    assert len(after.encode(wav, 24_000)[0, 0].unique()) > 1
    assert json.loads(Path(recipe.out, "split.json").read_text()) == {"heldout_speakers": [STRANGER]}
    assert {p.name for p in Path(recipe.out, "samples").iterdir()} == {"0-original.wav", "0-step90.wav"}
    assert list(Path(recipe.out, "logs").iterdir())


def test_a_trained_codec_grows(recipe: CodecRecipe) -> None:
    first = run(dataclasses.replace(recipe, steps=2, stages={"tokens": 1.0}))
    sizes = {"vocoder_blocks": 2, "wave_books": 2}
    more = dataclasses.replace(
        recipe, init=str(first), out=recipe.out + "2", grow=sizes, stages={"decoder": 1.0}, steps=1, wave_crops=50
    )
    old, new = AudioTokenizer.own(first), AudioTokenizer.own(run(more))
    assert (new.books, new.config.vocoder_blocks) == (old.books + 2, 2) and new.fingerprint == old.fingerprint
    assert new.wave and new.wave.prior.any(), "fitted"
    x = torch.randn(1, 4800, generator=torch.Generator().manual_seed(0))
    same = grow(old, sizes).eval()
    assert torch.equal(same.decode(old.encode(x, 24_000)), old.decode(old.encode(x, 24_000))), (
        "what is added does nothing at first"
    )
    with pytest.raises(UserError, match="grow can only add"):
        grow(old, {"books": old.books + 1, "dim": 8})


def test_resumed_run_equals_an_undisturbed_one(
    recipe: CodecRecipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(recipe)
    broken = dataclasses.replace(recipe, out=str(tmp_path / "broken"))
    whole_batch = ClipStore.batch

    def power_cut(self: ClipStore, seed: int, step: int, size: int, frames: int) -> Batch:
        if step == 5:
            raise KeyboardInterrupt
        return whole_batch(self, seed, step, size, frames)

    with monkeypatch.context() as patch:
        patch.setattr(ClipStore, "batch", power_cut)
        with pytest.raises(KeyboardInterrupt):
            run(broken)
    assert json.loads(Path(broken.out, "state", "facts.json").read_text())["step"] == 4
    run(broken)
    expected, found = state_of(recipe), state_of(broken)
    assert expected.keys() == found.keys()
    assert not [k for k in expected if not torch.equal(expected[k], found[k])]
    assert json.loads(Path(broken.out, "state", "facts.json").read_text())["step"] == 6


def test_processes_train_one_model_together(recipe: CodecRecipe) -> None:
    """As `torchrun` or `accelerate launch` start them: one checkpoint, in which both had their say."""
    settings = dataclasses.asdict(
        dataclasses.replace(recipe, stages={"tokens": 0.5, "decoder": 0.5}, steps=4, adversarial_from=1.0)
    )
    Path(recipe.out).mkdir()
    Path(recipe.out, "recipe.yaml").write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "solfa", "train", "codec", "--config", f"{recipe.out}/recipe.yaml"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = AudioTokenizer.own(Path(recipe.out, "checkpoint"))
    alone = AudioTokenizer.own(
        run(
            dataclasses.replace(
                recipe, stages={"tokens": 0.5, "decoder": 0.5}, steps=4, adversarial_from=1.0, out=recipe.out + "2"
            )
        )
    )
    assert json.loads(Path(recipe.out, "state", "facts.json").read_text())["step"] == 4
    apart = [
        k
        for k, v in together.state_dict().items()
        if v.is_floating_point() and not torch.equal(v, alone.state_dict()[k])
    ]
    assert any(k.startswith("encoder.") for k in apart) and any(k.startswith("decoder.") for k in apart)
    wav = torch.randn(1, 4800, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(together.decode(together.encode(wav, 24_000))).all()


def test_the_waveform_stage_trains_its_network_alone(recipe: CodecRecipe) -> None:
    first = run(dataclasses.replace(recipe, steps=2, stages={"tokens": 1.0}))
    more = dataclasses.replace(
        recipe, init=str(first), out=recipe.out + "2", grow={"wave_books": 4, "wave_refine": 6}, stages={"waveform": 1.0}, wave_crops=50,
        steps=30, auditory_weight=1.0,
    )  # fmt: skip
    old, new = AudioTokenizer.own(first), AudioTokenizer.own(run(more))
    changed = [k for k, v in old.state_dict().items() if not torch.equal(v, new.state_dict()[k])]
    assert not changed and new.wave and new.wave.refinement
    assert new.wave.prior.any() and new.wave.refinement.leave.weight.any(), "fitted, then trained"
    with pytest.raises(UserError, match="trains what this model lacks"):
        run(dataclasses.replace(recipe, out=recipe.out + "3", stages={"waveform": 1.0}))


def test_stages_share_the_run() -> None:
    shares = {"tokens": 2.0, "decoder": 2.0}
    assert [stage_at(p, shares) for p in (0.0, 0.25, 0.5, 1.0)] == [
        ("tokens", 0.0),
        ("tokens", 0.5),
        ("decoder", 0.0),
        ("decoder", 1.0),
    ]
    assert stage_at(0.7, {"vocoder": 1.0}) == ("vocoder", 0.7)


def test_codes_are_final_after_the_first_stage(recipe: CodecRecipe) -> None:
    first = run(dataclasses.replace(recipe, stages={"tokens": 1.0}))
    before = AudioTokenizer.own(first)
    later = dataclasses.replace(recipe, stages={"vocoder": 0.5, "decoder": 0.5}, init=str(first), out=recipe.out + "2")
    after = AudioTokenizer.own(run(later))
    assert before.fingerprint == after.fingerprint
    assert not torch.equal(before.vocoder.transform.weight, after.vocoder.transform.weight)
    assert not torch.equal(before.decoder.transform.weight, after.decoder.transform.weight)
    again = run(
        dataclasses.replace(
            later, stages={"decoder": 1.0}, init_vocoder=recipe.out + "2/checkpoint", steps=1, out=recipe.out + "3"
        )
    )
    assert AudioTokenizer.from_pretrained(again).fingerprint == before.fingerprint


def test_books_are_dropped_per_crop(tiny_codec: AudioTokenizer) -> None:
    codec = CodecInTraining(tiny_codec, 0.05)
    per_book = torch.ones(tiny_codec.books, 400, 1, 1)
    kept = codec._drop_books(per_book, np.random.default_rng(0)).flatten()
    share = {k: (kept == k).float().mean().item() for k in range(1, 5)}
    assert share[tiny_codec.lm_books] > 0.45
    assert share[tiny_codec.books] > 0.2
    assert share[1] > 0.02
    assert share[3] > 0.02


def test_fine_tuning_starts_from_the_checkpoints_codebooks(tiny_codec: AudioTokenizer) -> None:
    codec = CodecInTraining(tiny_codec, 0.05)
    codec.import_codebooks()
    assert torch.equal(codec.vq.codebooks, tiny_codec.quantizer.codebooks)
    wav = torch.randn(1, 7680, generator=torch.Generator().manual_seed(0)) * 0.1
    codec.eval()
    with torch.inference_mode():
        z = tiny_codec.encoder(wav)[0]
        made = codec.vq(z).per_book.sum(0)
        greedy = ResidualQuantizer(*tiny_codec.quantizer.codebooks.shape)
        greedy.codebooks.copy_(tiny_codec.quantizer.codebooks)
        expected = greedy.decode(greedy.encode(z))
    torch.testing.assert_close(made, expected)


def test_trained_weights_are_those_of_the_model(tiny_codec: AudioTokenizer) -> None:
    """Training adds nothing to the checkpoint: names and shapes are the tokenizer's own."""
    inside = CodecInTraining(AudioTokenizer(tiny_codec.config), 0.05).state_dict()
    own = {k.removeprefix("model."): v.shape for k, v in inside.items() if k.startswith("model.")}
    assert own == {k: v.shape for k, v in tiny_codec.state_dict().items()}


def test_unknown_stage(recipe: CodecRecipe) -> None:
    with pytest.raises(UserError, match="shares of tokens, vocoder, decoder"):
        run(dataclasses.replace(recipe, stages={"encoder": 1.0}))


@pytest.mark.parametrize("setting", [{"batch": 0}, {"minutes": -1.0}, {"steps": 0}, {"crop_seconds": 0.001}])
def test_settings_that_train_nothing(recipe: CodecRecipe, setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(setting))} should be"):
        run(dataclasses.replace(recipe, **setting))  # type: ignore[arg-type]


def test_a_finished_run_started_again_stays_as_it_is(recipe: CodecRecipe) -> None:
    recipe = dataclasses.replace(recipe, steps=2)
    before = load_file(run(recipe) / "model.safetensors")
    after = load_file(run(recipe) / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_command_needs_data_and_known_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "run", lambda recipe: pytest.fail("should not start"))
    with pytest.raises(UserError, match="names no data"):
        train(["data=[]"])
    with pytest.raises(UserError, match="does not say data"):
        train([])
    with pytest.raises(UserError, match="unknown setting 'stesp'"):
        train([f"data=[{tmp_path}]", "stesp=3"])


def test_recipe_is_read_with_its_nested_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CodecRecipe] = []

    def note(recipe: CodecRecipe) -> Path:
        seen.append(recipe)
        return tmp_path

    monkeypatch.setattr(training, "run", note)
    (tmp_path / "recipe.yaml").write_text(
        f"data: [a]\nout: {tmp_path}/run\nlearning_rate: 1e-3\nmodel: {{books: 4, lm_books: 4}}\n"
    )
    (tmp_path / "run").mkdir()
    train(["model.window=8", "minutes=3"], tmp_path / "recipe.yaml")
    assert seen == [
        CodecRecipe(
            ("a",),
            f"{tmp_path}/run",
            model=AudioTokenizerConfig(books=4, lm_books=4, window=8),
            minutes=3.0,
            learning_rate=1e-3,
        )
    ]
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["model"]["books"] == 4


def write_recipe(recipe: CodecRecipe) -> list[str]:
    """-> the command that runs it."""
    settings = {k: v for k, v in dataclasses.asdict(recipe).items() if v is not None}
    path = Path(recipe.data[0]).with_name("recipe.yaml")
    path.write_text(json.dumps(settings))
    return ["train", "codec", "--config", str(path)]


def test_clips_that_cannot_be_used_are_listed(recipe: CodecRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(recipe.data[0], LEARNER)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("no audio")
    soundfile.write(folder / "nan.wav", np.full(24_000, np.nan, np.float32), 24_000, subtype="FLOAT")
    (Path(recipe.data[0], STRANGER) / "z.wav").write_bytes(b"RIFF")  # held out, and the one to be measured
    command = write_recipe(dataclasses.replace(recipe, steps=1, evaluate_clips=1))
    for _ in range(2):  # the second run finds them decoded
        assert solfa(command) == 0
        out = capsys.readouterr().out
        assert "4 clips cannot be used and are left out, see " in out
        assert all(out.count(f"{name}.wav") == 1 for name in ("empty", "text", "nan", "/z"))
    rows = [json.loads(line) for line in Path(recipe.out, "rejects.jsonl").read_text().splitlines()]
    assert {Path(row["audio"]).name: row["kind"] for row in rows}["nan.wav"] == "nan"
    for path in folder.parent.rglob("clip.wav"):
        path.unlink()
    assert solfa([*command, f"out={recipe.out}2"]) == 2
    assert "none of the training files could be used; the first: " in capsys.readouterr().err


def test_a_run_is_not_continued_with_other_data_or_settings(
    recipe: CodecRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dataclasses.replace(recipe, steps=1)
    command = write_recipe(recipe)
    assert solfa(command) == 0
    before = load_file(Path(recipe.out, "checkpoint", "model.safetensors"))
    clip = Path(recipe.data[0], LEARNER, "clip.wav")
    shutil.copytree(recipe.data[0], tmp_path / "other")

    def refused(*words: str) -> str:
        capsys.readouterr()
        assert solfa([*command, *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "another out=" in error
        return error

    assert "begun with data=" in refused(f"data=[{tmp_path}/other]")
    assert "begun with model.dim=16, not 24" in refused("model.dim=24")
    write_wav(clip, read_audio(clip).samples[::-1].copy(), 24_000)
    assert "the data have changed since" in refused()
    for name, value in load_file(Path(recipe.out, "checkpoint", "model.safetensors")).items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("file", ["facts.json", "codec.safetensors", "optimizer.safetensors", "average.safetensors"])
def test_a_damaged_state_is_one_sentence(recipe: CodecRecipe, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = write_recipe(dataclasses.replace(recipe, steps=1, stages={"vocoder": 1.0}, fit_crops=50))
    assert solfa(command) == 0
    path = Path(recipe.out, "state", file)
    path.write_bytes(path.read_bytes()[:-30])
    capsys.readouterr()
    assert solfa(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{file} is missing or damaged" in error and "remove" in error


def test_steps_beside_minutes_end_the_run(recipe: CodecRecipe) -> None:
    run(dataclasses.replace(recipe, steps=2, minutes=60.0))
    assert json.loads(Path(recipe.out, "state", "facts.json").read_text())["step"] == 2
