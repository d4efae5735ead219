"""The speaker around an untrained network: lengths, seeds, times, long texts and mistakes do not depend on training."""

from pathlib import Path

import numpy as np
import pytest

from solfa.cli import run
from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tts.style.style_encoder import Style, StyleEncoder
from solfa.tts.synthesizer import TTS


@pytest.fixture(scope="module")
def tts(speaker_folder: Path) -> TTS:
    return TTS.from_pretrained(speaker_folder)


def test_speech_is_as_long_as_planned_and_words_are_in_order(tts: TTS) -> None:
    speech = tts.say("Hello there, world.", voice="ann")
    assert [w.word for w in speech.words] == ["hello", "there", "world"]
    times = [t for w in speech.words for t in (w.start, w.end)]
    assert times == sorted(times)
    assert times[-1] <= speech.duration + 1e-6
    assert len(speech.samples) % tts.codec.hop == 0 and np.isfinite(speech.samples).all()


def test_same_seed_same_bytes_other_seed_other_bytes(tts: TTS) -> None:
    one, two, other = (tts.say("The same again.", voice="bob", seed=s).samples for s in (4, 4, 5))
    assert np.array_equal(one, two)
    assert len(one) != len(other) or not np.array_equal(one, other)


def test_stream_joined_is_the_whole(tts: TTS) -> None:
    text = "First sentence. Second one! And a third?"
    pieces = list(tts.stream(text, seed=3))
    assert len(pieces) == 3
    whole = tts.say(text, seed=3)
    assert np.array_equal(np.concatenate([p.samples for p in pieces]), whole.samples)
    assert whole.words[-1].word == "third" and whole.words[-1].end <= whole.duration


def test_a_style_is_never_read_aloud(tts: TTS) -> None:
    tagged = tts.say("<style>slow and calm</style>Good night.", seed=1)
    asked = tts.say("Good night.", "slow and calm", seed=1)
    assert [w.word for w in tagged.words] == ["good", "night"]
    assert np.array_equal(tagged.samples, asked.samples)


def test_loudness_is_a_gain_and_nothing_clips(tts: TTS) -> None:
    plain, loud, quiet = (tts.say("Hello.", Style(loudness=x)).samples for x in (0.0, 2.0, -2.0))
    assert np.abs(quiet).mean() < np.abs(plain).mean() < np.abs(loud).mean()
    assert np.abs(loud).max() < 1.0


def test_a_pause_tag_takes_time(tts: TTS) -> None:
    without, with_pause = tts.say("Wait now.", seed=2), tts.say("Wait [pause] now.", seed=2)
    gap = with_pause.words[1].start - with_pause.words[0].end
    assert gap >= 0.6 and gap > without.words[1].start - without.words[0].end


def test_the_style_chooses_who_speaks_unless_a_voice_is_named(tts: TTS) -> None:
    assert tts.choose_voice(None, Style()).name == "ann"
    assert tts.choose_voice(None, Style(gender=-1.0)).name == "bob"
    assert tts.choose_voice("Ann", Style(gender=-1.0)).name == "ann"
    with pytest.raises(UserError, match="unknown voice 'zoe'; there are described, ann, bob"):
        tts.choose_voice("zoe", Style())


@pytest.mark.parametrize("text", ["", "   ", "😀😀", "...", "你好", "word " * 10_001])
def test_text_without_anything_to_say_or_too_much_is_refused(tts: TTS, text: str) -> None:
    with pytest.raises(UserError):
        tts.say(text)


def test_another_codecs_checkpoint_is_refused(speaker_folder: Path, tmp_path: Path, tiny_codec_folder: Path) -> None:
    codec = AudioTokenizer.own(tiny_codec_folder)
    codec.vocoder.transform.bias.data += 1  # another voice of the same codes
    codec.save_pretrained(tmp_path / "retuned")
    assert TTS.from_pretrained(speaker_folder, codec=tmp_path / "retuned").codec.name == "retuned"
    codec.quantizer.codebooks += 1
    codec.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="fingerprint"):
        TTS.from_pretrained(speaker_folder, codec=tmp_path / "other")


def test_command_writes_a_file_and_says_how_long_it_took(
    speaker_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "hello.wav"
    assert run(["say", "Hello.", "--style", "slow", "-o", str(out), "--checkpoint", str(speaker_folder)]) == 0
    assert out.stat().st_size > 1000
    assert "real-time factor" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["say", ""],
        ["say", "🎉"],
        ["say", "x" * 50_000],
        ["say", "Hello.", "--style", "говори тихо"],
        ["say", "Hello.", "--voice", "nobody"],
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    arguments: list[str], speaker_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.wav"
    assert run([*arguments, "-o", str(out), "--checkpoint", str(speaker_folder)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_found_before_speaking(
    speaker_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["say", "Hello.", "-o", str(tmp_path / "file" / "x.wav"), "--checkpoint", str(speaker_folder)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_styles_reach_the_network(tts: TTS) -> None:
    calm, wild = tts.conditions(Style(rate=-1), tts.voices[1]), tts.conditions(Style(rate=1), tts.voices[1])
    assert calm.style[0, 0] == -1 and wild.style[0, 0] == 1
    assert isinstance(tts.styles, StyleEncoder)
