"""Styles as numbers, and the encoder that reads them from an instruction."""

import json
import time
from importlib import resources

import pytest
import torch
from torch import nn

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.tts.style.style_encoder import (
    ATTRIBUTES,
    CLS,
    SEP,
    Style,
    StyleEncoder,
    StyleEncoderConfig,
    StyleNet,
    check,
    unpacked,
    windows,
)

BUNDLED = checkpoints.BUNDLED / "style-en"


@pytest.fixture(scope="module")
def encoder():
    return StyleEncoder.from_pretrained()


def test_a_style_knows_what_was_asked():
    assert Style().asked == frozenset() and Style().values() == [0.0] * 9
    style = Style(rate=-1.0, gender=-1.0)
    assert style.asked == {"rate", "gender"}
    assert style.mask() == [float(name in ("rate", "gender")) for name in ATTRIBUTES]


def test_one_style_goes_over_another():
    both = Style(rate=-1.0).over(Style(rate=1.0, pitch=0.5))
    assert (both.rate, both.pitch, both.asked) == (-1.0, 0.5, {"rate", "pitch"})


@pytest.mark.parametrize(
    ("style", "words"),
    [
        (Style(), "neutral"),
        (Style(rate=-1, pitch=-1, loudness=-0.9, gender=-1, age=1), "slower, lower, quieter; an old man"),
        (Style(breathiness=2), "whispering"),
        (Style(rate=2, age=-1), "much faster; a child"),
        (Style(pitch_range=0.4, gender=1), "a little livelier; a woman"),
    ],
)
def test_summary(style, words):
    assert str(style) == words


@pytest.mark.parametrize("value", [float("nan"), 7.0, float("inf")])
def test_impossible_attributes_are_refused(value):
    with pytest.raises(UserError, match="rate="):
        Style(rate=value)


@pytest.mark.parametrize("text", ["一个温柔的声音", "спокойный голос", "🙂🙂", "123 !?", "說明 tts 慢慢地說話吧"])
def test_other_scripts_are_refused(text):
    with pytest.raises(UserError, match="Latin letters"):
        check(text)


def test_endless_styles_are_refused():
    check("slow " * 400)
    with pytest.raises(UserError, match="2,000"):
        check("slow " * 401)


def small() -> StyleNet:
    return StyleNet(StyleEncoderConfig(vocab_size=50, width=16, layers=2, heads=4, hidden=16, window=12))


def test_packed_weights_read_alike(tmp_path):
    torch.manual_seed(0)
    net, other = small(), small()
    nn.init.normal_(net.position)
    checkpoints.save(tmp_path, "style", {}, net.packed())
    other.load_state_dict(unpacked(checkpoints.load(tmp_path, "style")[1]))
    for (name, one), two in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(two, one, atol=float(one.abs().max()) / 120, rtol=0.01, msg=name)


def test_long_texts_come_in_pieces():
    assert windows([7, 8, 9, 10, 11], window=4) == [[CLS, 7, 8, SEP], [CLS, 9, 10, SEP], [CLS, 11, SEP]]
    assert windows([], window=4) == [[CLS, SEP]]


def test_padding_changes_nothing():
    torch.manual_seed(0)
    net = small().eval()
    ids = torch.randint(1, 50, (3, 7))
    longer = torch.cat([ids, torch.zeros(3, 5, dtype=torch.int64)], dim=1)
    with torch.inference_mode():
        for short, long in zip(net(ids), net(longer), strict=True):
            torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not BUNDLED.is_dir(), reason="no bundled style encoder")
class TestBundled:
    def test_nothing_asked(self, encoder):
        assert encoder.encode("") == encoder.encode("  \n") == Style()
        ordinary = (
            resources.files("solfa")
            .joinpath("tts", "style", "heldout_sentences.txt")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        asking = [line for line in ordinary if encoder.encode(line).asked]
        assert len(asking) <= 0.05 * len(ordinary), asking

    @pytest.mark.parametrize(
        ("text", "attribute", "sign"),
        [
            ("speak slowly", "rate", -1),
            ("a very fast voice", "rate", 1),
            ("a deep voice", "pitch", -1),
            ("high-pitched", "pitch", 1),
            ("quietly, please", "loudness", -1),
            ("shouting", "loudness", 1),
            ("monotone", "pitch_range", -1),
            ("lively and expressive", "pitch_range", 1),
            ("a young woman", "gender", 1),
            ("an old man, tired, almost whispering", "gender", -1),
            ("an old man, tired, almost whispering", "age", 1),
            ("an old man, tired, almost whispering", "breathiness", 1),
        ],
    )
    def test_plain_words(self, encoder, text, attribute, sign):
        assert getattr(encoder.encode(text), attribute) * sign >= 0.3

    @pytest.mark.parametrize(
        ("text", "attribute", "sign"),
        [
            ("don't speak so loud", "loudness", -1),
            ("not so loud, please", "loudness", -1),
            ("stop shouting", "loudness", -1),
            ("don't be so quiet", "loudness", 1),
            ("don't rush", "rate", -1),
            ("not so slow", "rate", 1),
            ("you are too fast", "rate", -1),
            ("less high", "pitch", -1),
            ("not so deep", "pitch", 1),
        ],
    )
    def test_what_is_refused_is_turned_round(self, encoder, text, attribute, sign):
        assert getattr(encoder.encode(text), attribute) * sign >= 0.3

    @pytest.mark.parametrize("text", ["the cat sat on the mat", "hello world", "I like trains.", "a cup of tea"])
    def test_everyday_remarks_ask_for_nothing(self, encoder, text):
        assert not encoder.encode(text).asked

    @pytest.mark.parametrize("text", ["a young woman", "a cheerful young woman", "a young woman with a warm voice"])
    def test_young_women_are_no_girls(self, encoder, text):
        style = encoder.encode(text)
        assert style.gender > 0.3 and "girl" not in str(style)

    def test_more_is_more(self, encoder):
        assert encoder.encode("extremely slow").rate < encoder.encode("slightly slow").rate < 0

    def test_case_and_space_do_not_matter(self, encoder):
        assert encoder.encode("  A SLOW   voice ") == encoder.encode("a slow voice")

    def test_long_instructions_are_read_to_the_end(self, encoder):
        assert encoder.encode("a calm man with a deep voice. " * 15 + "he speaks very fast.").gender < 0

    @pytest.mark.slow
    def test_speed(self, encoder):
        encoder.encode("warm up")
        start = time.process_time()
        for _ in range(5):
            encoder.encode("an old man, tired, almost whispering")
        assert (time.process_time() - start) / 5 < 0.1

    def test_a_foreign_folder_is_named(self, tmp_path):
        config = json.loads((BUNDLED / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="model.safetensors"):
            StyleEncoder.from_pretrained(tmp_path)
        (tmp_path / "model.safetensors").write_bytes((BUNDLED / "model.safetensors").read_bytes())
        with pytest.raises(UserError, match="tokenizer.json"):
            StyleEncoder.from_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_bytes((BUNDLED / "tokenizer.json").read_bytes())
        huge = config["config"] | {"width": 12 * 10**5, "layers": 10**4}
        (tmp_path / "config.json").write_text(json.dumps(config | {"config": huge}))
        with pytest.raises(UserError, match="does not fit its config.json"):
            StyleEncoder.from_pretrained(tmp_path)
        del config["config"]["width"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="width"):
            StyleEncoder.from_pretrained(tmp_path)
