"""The synthesizer around an untrained network: lengths, seeds, times, long texts and mistakes do not depend on training."""

import ast
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tts import synthesizer
from solfa.tts.model import TTSModel, Voice
from solfa.tts.style.style_encoder import Style, StyleEncoder
from solfa.tts.synthesizer import MAX_SEED, TTS


@pytest.fixture(scope="module")
def tts(tts_folder: Path) -> TTS:
    return TTS.from_pretrained(tts_folder)


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


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_text_in_pieces_is_joined_as_it_is(tts: TTS, size: int) -> None:
    text = "Hello there, Dr. Smith.  How are you?\nFine! And a third one"
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    spoken = list(tts.stream(pieces, voice="ann", seed=3))
    assert [[w.word for w in speech.words] for speech in spoken] == [
        ["hello", "there", "doctor", "smith"], ["how", "are", "you"], ["fine"], ["and", "a", "third", "one"]
    ]  # fmt: skip
    assert np.array_equal(np.concatenate([s.samples for s in spoken]), tts.say(text, voice="ann", seed=3).samples)


def test_a_sentence_is_spoken_before_the_next_piece_is_asked_for(tts: TTS) -> None:
    taken: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in ("Hel", "lo.", " One", " more.", " The", " last"):
            taken.append(piece)
            yield piece

    speech = tts.stream(pieces(), voice="ann")
    assert taken == [], "nothing is read before the first sound is wanted"
    assert [w.word for w in next(speech).words] == ["hello"]
    assert taken == ["Hel", "lo.", " One"], "the space after the point closes the sentence"
    assert [[w.word for w in s.words] for s in speech] == [["one", "more"], ["the", "last"]]


def test_an_endless_text_is_spoken_as_it_comes(tts: TTS) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "Word. "

    speech = tts.stream(endless(), voice="ann")
    assert [next(speech).words[0].word for _ in range(3)] == ["word"] * 3


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_style_at_the_start_of_pieces_is_an_instruction(tts: TTS, size: int) -> None:
    text = " <STYLE>slow and calm</style>Good night."
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    (spoken,) = tts.stream(pieces, "fast", seed=1)
    assert np.array_equal(spoken.samples, tts.say("Good night.", "slow and calm", seed=1).samples)
    (other,) = tts.stream(iter(["<st", "rong> words"]), seed=1)
    assert "words" in [w.word for w in other.words]


@pytest.mark.parametrize("pieces", [[], [""], ["...", " ..."], ["<style>slow</style>", " "], ["你好。"]])
def test_pieces_without_anything_to_say_are_refused(tts: TTS, pieces: list[str]) -> None:
    with pytest.raises(UserError, match="nothing to speak"):
        list(tts.stream(iter(pieces)))


def test_mistakes_beside_pieces_are_found_before_a_piece_is_read(tts: TTS) -> None:
    def untouched() -> Iterator[str]:
        raise AssertionError("a piece was asked for")
        yield ""

    for arguments in ({"voice": "zoe"}, {"seed": -1}, {"style": "говори тихо"}, {"liveliness": 2.0}):
        with pytest.raises(UserError):
            tts.stream(untouched(), **arguments)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not bytes"):
        list(tts.stream(iter([b"Hello."])))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not int"):
        tts.stream(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 99999999999999999999, 1.5, float("nan"), "seven", None])
def test_impossible_seeds_are_one_sentence(tts: TTS, seed: int) -> None:
    with pytest.raises(UserError, match="should be a whole number from 0 to 18446744073709551615"):
        tts.say("Hello.", seed=seed)


@pytest.mark.parametrize("seed", [0, MAX_SEED, np.int64(7)])
def test_every_other_seed_speaks(tts: TTS, seed: int) -> None:
    assert len(tts.say("Hi.", voice="ann", seed=seed).samples)


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


def with_voices(tts: TTS, *names: str) -> TTS:
    """The same network with other voices beside `described`."""
    config = dataclasses.replace(tts.model.config, voices=(Voice("described"), *map(Voice, names)))
    return TTS(TTSModel(config), tts.codec, tts.text, tts.styles)


def test_a_voice_with_a_capital_can_be_chosen(tts: TTS) -> None:
    named = with_voices(tts, "Ann", "Élodie ", "BOB", "bob")
    for asked, name in (
        ("Ann", "Ann"),
        (" ann", "Ann"),
        ("ÉLODIE", "Élodie "),
        ("BOB", "BOB"),
        ("bob", "bob"),
        ("Bob", "BOB"),
    ):
        assert named.find_voice(asked).name == name
    assert named.say("Hello.", voice="Ann").voice == "Ann"


def test_an_unknown_voice_is_one_sentence_with_the_near_ones(tts: TTS) -> None:
    with pytest.raises(
        UserError, match="unknown voice 'Anne', perhaps 'Ann' or 'Anna'; there are described, Ann, Anna, bob$"
    ):
        with_voices(tts, "Ann", "Anna", "bob").find_voice("Anne")
    many = with_voices(tts, *(f"v{i:03}" for i in range(200)))
    with pytest.raises(UserError, match="v018 and 181 more, see solfa voices$") as caught:
        many.find_voice("nobody")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", "   ", "😀😀", "...", "你好", "word " * 10_001])
def test_text_without_anything_to_say_or_too_much_is_refused(tts: TTS, text: str) -> None:
    with pytest.raises(UserError):
        tts.say(text)


def test_another_codecs_checkpoint_is_refused(tts_folder: Path, tmp_path: Path, tiny_codec_folder: Path) -> None:
    codec = AudioTokenizer.own(tiny_codec_folder)
    codec.vocoder.transform.bias.data += 1  # another voice of the same codes
    codec.save_pretrained(tmp_path / "retuned")
    assert TTS.from_pretrained(tts_folder, codec=tmp_path / "retuned").codec.name == "retuned"
    codec.quantizer.codebooks += 1
    codec.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="fingerprint"):
        TTS.from_pretrained(tts_folder, codec=tmp_path / "other")


def test_a_saved_model_speaks_the_same(tts: TTS, tmp_path: Path) -> None:
    tts.save_pretrained(str(tmp_path / "new" / "copy"))
    again = TTS.from_pretrained(str(tmp_path / "new" / "copy"))
    assert np.array_equal(
        again.say("The same.", voice="bob", seed=2).samples, tts.say("The same.", voice="bob", seed=2).samples
    )
    assert again.card is None and not (tmp_path / "new" / "copy" / "README.md").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        tts.save_pretrained(str(tmp_path / "file" / "x"))


def test_a_model_card_is_saved_too(tts_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tts_folder, tmp_path / "one")
    (tmp_path / "one" / "README.md").write_text("# Ann and Bob")
    TTS.from_pretrained(tmp_path / "one").save_pretrained(str(tmp_path / "two"))
    assert (tmp_path / "two" / "README.md").read_text() == "# Ann and Bob"


def test_push_to_hub_uploads_what_is_saved(tts: TTS, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[tuple[str, set[str]]] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            assert token == "secret"

        def create_repo(self, repo: str, private: bool | None, exist_ok: bool) -> None:
            assert (repo, private, exist_ok) == ("me/voices", True, True)

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
            uploads.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))
            return "https://address"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert tts.push_to_hub("me/voices", private=True, token="secret") == "https://address"
    ((repo, files),) = uploads
    assert repo == "me/voices" and files >= {"config.json", "model.safetensors", "README.md"}


def test_a_device_that_is_not_there_is_one_sentence(tts: TTS, tts_folder: Path) -> None:
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(UserError, match=f"device '{device}' is not available here"):
            TTS.from_pretrained(tts_folder, device=device)
        with pytest.raises(UserError, match="is not available here"):
            tts.to(device)
    assert tts.to("cpu") is tts and tts.to(torch.device("cpu")).device.type == "cpu"


def test_every_tensor_comes_to_the_cpu_before_numpy() -> None:
    """`tensor.numpy()` fails on a GPU, which no machine of this test has: each such call follows `.cpu()`."""
    calls = 0
    root = Path(synthesizer.__file__).parent
    for path in [
        *root.glob("*.py"),
        *root.glob("style/*.py"),
        *root.glob("evaluation/*.py"),
        *root.parent.glob("demos/*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "numpy" and not isinstance(node.value, ast.Name):
                calls += 1
                before = node.value.func if isinstance(node.value, ast.Call) else None
                assert isinstance(before, ast.Attribute) and before.attr == "cpu", f"{path}:{node.lineno}"
    assert calls >= 2


def test_styles_reach_the_network(tts: TTS) -> None:
    calm, wild = tts.conditions(Style(rate=-1), tts.voices[1]), tts.conditions(Style(rate=1), tts.voices[1])
    assert calm.style[0, 0] == -1 and wild.style[0, 0] == 1
    assert isinstance(tts.styles, StyleEncoder)


def test_a_style_of_another_type_is_one_sentence(tts: TTS) -> None:
    with pytest.raises(UserError, match="a style should be an instruction in words, or a Style, not int"):
        tts.say("Hello.", style=5)  # type: ignore[arg-type]
