"""The demo's page is built and its handlers run, over tiny untrained models."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from solfa.core.errors import UserError
from solfa.demos import app, pictures
from solfa.omni.decoder.decoder import DecoderConfig
from solfa.omni.model.patches import LocalConfig
from solfa.tokenizers.audio.audio_file import read_audio, write_wav
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts.model import TTSConfig, TTSModel, Voice
from solfa.tts.planner import PlannerConfig
from solfa.tts.style.style_encoder import Style, StyleEncoder
from solfa.tts.synthesizer import TTS


class SlowReader:
    """Reads "slow" and nothing else."""

    def encode(self, text: str) -> Style:
        if "?" in text:
            raise UserError("the style <?> cannot be read")
        return Style(rate=-1.0) if "slow" in text else Style()


@pytest.fixture(scope="module")
def tts(tiny_codec: AudioTokenizer) -> TTS:
    text = TextTokenizer.from_pretrained()
    local = LocalConfig(dim=16, layers=1, heads=2, ffn_dim=32)
    config = TTSConfig(
        voices=(Voice("described"), Voice("kathleen", 1.0, 0.0, 200.0)), books=tiny_codec.lm_books, codebook_size=tiny_codec.codebook_size,
        slot_dim=8, planner=PlannerConfig(text.vocab_size, 16, 1, 2, 32, 16), decoder=DecoderConfig(16, 1, 32, (0,)),
        patch_encoder=local, patch_decoder=local,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TTSModel(config)
    return TTS(model, tiny_codec, text, cast(StyleEncoder, SlowReader()))


@pytest.fixture
def toasts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Notes that the page would have shown."""
    shown: list[str] = []
    monkeypatch.setattr(gr, "Info", shown.append)
    yield shown


def speak(tts: TTS, text: str, style: str = "", voice: str = app.BY_STYLE) -> tuple:
    return app.speak(tts, text, style, voice, 0, 0.7, 0.5, gr.Progress())


def test_page_has_both_tabs_and_the_voices(tts: TTS) -> None:
    page = app.build(tts)
    labels = {getattr(block, "label", None) for block in page.blocks.values()}
    assert {"Speak", "Reconstruct", "Text", "Style", "Voice", "Speech", "Books", "Codes"} <= labels
    (voice,) = [b for b in page.blocks.values() if isinstance(b, gr.Dropdown)]
    assert [name for name, _ in voice.choices] == [app.BY_STYLE, "described", "kathleen"]
    (books,) = [b for b in page.blocks.values() if isinstance(b, gr.Slider) and b.label == "Books"]
    assert (books.minimum, books.maximum, books.value) == (1, tts.codec.books, tts.codec.lm_books)


def test_speak(tts: TTS) -> None:
    (rate, samples), facts, words, picture = speak(tts, "One. Two three.", "slow", "kathleen")
    assert rate == 24_000
    assert samples.dtype == np.int16
    assert np.abs(samples).max() > 0
    assert "**kathleen**" in facts
    assert "**slower**" in facts
    assert f"**{len(samples) / rate:.1f} s**" in facts
    assert [w for w, _, _ in words] == ["one", "two", "three"]
    edges = [float(t) for _, start, end in words for t in (start, end)]
    assert edges == sorted(edges)
    assert edges[-1] <= len(samples) / rate
    assert {t.get_text() for t in picture.axes[0].texts} == {"one", "two", "three"}


def test_same_seed_same_sound(tts: TTS) -> None:
    assert np.array_equal(speak(tts, "Hello.")[0][1], speak(tts, "Hello.")[0][1])


@pytest.mark.parametrize(
    ("text", "style", "sentence"),
    [("", "", "empty"), ("a" * 1001, "", "1,001 characters"), ("Hello.", "?", "&lt;?&gt;")],
)
def test_mistakes_are_told_in_a_sentence(tts: TTS, text: str, style: str, sentence: str) -> None:
    with pytest.raises(gr.Error) as caught:
        speak(tts, text, style)
    assert sentence in caught.value.message
    assert caught.value.duration is None, "it stays until it is closed"
    assert not caught.value.print_exception


@pytest.mark.parametrize("seed", [-1, 1e20, 1.5, float("nan"), float("inf")])
def test_impossible_seeds_are_one_sentence(tts: TTS, seed: float) -> None:
    with pytest.raises(gr.Error, match="seed .* should be a whole number from 0"):
        app.speak(tts, "Hello.", "", app.BY_STYLE, seed, 0.7, 0.5, gr.Progress())


def test_an_empty_seed_field_is_zero(tts: TTS) -> None:
    empty = app.speak(tts, "Hello.", "", app.BY_STYLE, cast(float, None), 0.7, 0.5, gr.Progress())
    assert np.array_equal(empty[0][1], speak(tts, "Hello.")[0][1])


def test_reconstruct(tiny_codec: AudioTokenizer, speech_clip: Path) -> None:
    recording = app.read_recording(tiny_codec, str(speech_clip))
    assert recording is not None
    assert recording.codes.shape == (tiny_codec.books, 25)
    sounds = []
    for k in (1, tiny_codec.books):
        sound, facts, codes, spectrograms = app.reconstruct(tiny_codec, recording, k)
        assert sound is not None
        assert codes is not None
        assert spectrograms is not None
        assert len(sound[1]) == len(recording.samples) == 24_000
        assert f"**{tiny_codec.bitrate(k) / 1000:.2f} kbps** with {k} of 4 books" in facts
        assert len(spectrograms.axes) == 2
        opacity = np.asarray(codes.axes[0].images[0].get_alpha())
        assert (opacity[:, 0] == 1).sum() == k
        sounds.append(sound[1])
    assert not np.array_equal(sounds[0], sounds[1])


def test_nothing_uploaded_shows_nothing(tiny_codec: AudioTokenizer) -> None:
    assert app.read_recording(tiny_codec, None) is None
    assert app.reconstruct(tiny_codec, None, 1) == (None, "", None, None)


def test_long_upload_is_cut_and_said_so(
    tiny_codec: AudioTokenizer, tmp_path: Path, toasts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_SECONDS", 0.5)
    write_wav(tmp_path / "long.wav", np.full(16_000, 0.1, np.float32), 16_000)
    recording = app.read_recording(tiny_codec, str(tmp_path / "long.wav"))
    assert recording is not None
    assert len(recording.samples) == 12_000
    assert toasts == ["Only the first 0.5 seconds are used."]


def test_only_the_start_of_an_upload_is_decoded(
    tiny_codec: AudioTokenizer, tmp_path: Path, toasts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_SECONDS", 1.0)
    samples = np.full(60 * 16_000, 0.1, np.float32)
    samples[-1] = np.nan  # refused by whoever decodes it
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    recording = app.read_recording(tiny_codec, str(tmp_path / "long.wav"))
    assert recording is not None
    assert len(recording.samples) == 24_000
    assert len(toasts) == 1


def test_a_large_upload_is_refused_before_it_is_decoded(
    tiny_codec: AudioTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.wav").write_bytes(b"no audio here")
    monkeypatch.setattr(app, "MAX_UPLOAD", 12)
    with pytest.raises(gr.Error, match="the file has 0 MiB; the demo takes up to 0"):
        app.read_recording(tiny_codec, str(tmp_path / "large.wav"))


def test_damaged_upload(tiny_codec: AudioTokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "noise.wav").write_bytes(b"no audio here")
    for name in ("noise.wav", "missing.wav"):
        with pytest.raises(gr.Error) as caught:
            app.read_recording(tiny_codec, str(folder / name))
        assert name in caught.value.message
        assert str(folder) not in caught.value.message and "folder/" not in caught.value.message
        assert caught.value.duration is None
    with pytest.raises(gr.Error, match="damaged or not an audio file"):
        app.read_recording(tiny_codec, str(folder / "noise.wav"))


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("/tmp/gradio/ab1/x.wav is damaged", "x.wav is damaged"),
        ("C:\\Users\\me\\x.wav is damaged", "x.wav is damaged"),
        ("no checkpoint '/srv/models/one'", "no checkpoint &#x27;one&#x27;"),
        ("there is nothing to speak in 'and/or 1/2/3'", "there is nothing to speak in &#x27;and/or 1/2/3&#x27;"),
    ],
)
def test_sentences_hold_no_folder_of_the_server(sentence: str, shown: str) -> None:
    with pytest.raises(gr.Error) as caught, app.sentences_for_the_user():
        raise UserError(sentence)
    assert caught.value.message == shown


def test_port_in_use_is_one_sentence(tts: TTS, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: object, **__: object) -> None:
        raise OSError("Cannot find empty port in range: 7860-7860.")

    monkeypatch.setattr(TTS, "from_pretrained", lambda name: tts)
    monkeypatch.setattr(gr.Blocks, "launch", launch)
    with pytest.raises(UserError, match="port 7860 of 127.0.0.1"):
        app.demo()


def test_spectrogram_of_a_tone() -> None:
    seconds, hz = 0.5, 3000
    tone = np.sin(2 * np.pi * hz * np.arange(int(24_000 * seconds)) / 24_000)
    picture = pictures.decibels(tone)
    assert picture.shape[0] == pictures.WINDOW // 2 + 1
    middle = picture[:, picture.shape[1] // 2]
    assert middle.argmax() == hz * pictures.WINDOW // 24_000
    assert pictures.decibels(np.zeros(1)).shape[1] >= 1


def test_a_spectrogram_spans_the_clip() -> None:
    for seconds in (0.3, 40.0):
        noise = np.random.default_rng(0).standard_normal(int(24_000 * seconds)).astype(np.float32)
        axes = pictures.spectrogram(noise, 24_000).axes[0]
        assert axes.get_xlim()[1] == pytest.approx(seconds, abs=0.05)
        assert axes.get_ylim() == pytest.approx((0, 12_000), abs=30)
        assert axes.get_ylabel() == "kHz"


def test_many_words_stay_off_the_picture() -> None:
    words = [("word", i * 0.01, (i + 1) * 0.01) for i in range(pictures.MAX_WORDS + 1)]
    assert not pictures.spectrogram(np.zeros(24_000), 24_000, words).axes[0].texts
    assert len(pictures.spectrogram(np.zeros(24_000), 24_000, [("$a$", 0.0, 0.5)]).axes[0].texts) == 1


def test_page_answers_over_http(tts: TTS) -> None:
    """The wiring of the page, as a browser would use it."""
    page = app.build(tts)
    page.launch(prevent_thread_lock=True, quiet=True, inbrowser=False, theme=app.THEME, css=app.CSS)
    try:
        client = Client(page.local_url, verbose=False)
        sound, facts, words, picture = client.predict("One two.", "slow", "kathleen", 3, 0.7, 0.5, api_name="/speak")
        assert len(read_audio(sound).samples) > 0
        assert "**kathleen**" in facts
        assert [row[0] for row in words["data"]] == ["one", "two"]
        assert picture["plot"].startswith("data:image/")
        with pytest.raises(AppError, match="the text is empty"):
            client.predict("", "", app.BY_STYLE, 0, 0.7, 0.5, api_name="/speak")
    finally:
        page.close()
