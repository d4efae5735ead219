"""Preparing training data: Flite's labels, splits, resuming, WORLD's changes, and the command from end to end."""

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import read_audio, write_wav
from solfa.tts.data import flite, manifest
from solfa.tts.data import prepare_tts as prepare
from solfa.tts.data.manifest import Parts, heldout, sentence_key
from solfa.tts.data.pitch import SLOT, pitch_track
from solfa.tts.data.synthetic import Change, analyse, draw_change, labelled, resynthesise, stretched

RATE = 24_000


def entry(text: str, words: list[tuple[str, str]], segments: list[tuple[Any, ...]], **more: Any) -> dict[str, Any]:
    """What flite_dump prints: words as (word, token)."""
    spelled = [{"word": word, "token": token, "before": "", "after": ""} for word, token in words]
    return {"id": "a", "text": text, "words": spelled, "segments": [list(s) for s in segments], **more}


def test_flite_labels_become_symbols_with_stress_words_and_punctuation() -> None:
    told = entry(
        "That's so, so!",
        [("that", "That's"), ("'s", "That's"), ("so", "so"), ("so", "so")],
        [
            ("pau", -1, -1),
            ("dh", -1, 0),
            ("ae", 1, 0),
            ("t", -1, 0),
            ("s", -1, 1),
            ("s", -1, 2),
            ("ow", 1, 2),
            ("s", -1, 3),
            ("ow", 0, 3),
            ("pau", -1, -1),
        ],
    )
    read = flite.read(told)
    assert read.words == ["That's", "so", "so"]
    assert read.phones == ["pau", "dh", "ae1", "t", "s", "s", "ow1", ",", "s", "ow", "!"]
    assert read.word_index == [-1, 0, 0, 0, 0, 1, 1, -1, 2, 2, -1]
    assert read.ends is None


def test_flite_times_count_pauses_once_and_a_pause_nobody_asked_for_is_pau() -> None:
    segments = [
        ("pau", -1, -1, 0.2),
        ("g", -1, 0, 0.3),
        ("ow", 1, 0, 0.5),
        ("pau", -1, -1, 0.6),
        ("aa", 1, 1, 0.8),
        ("n", -1, 1, 0.9),
        ("pau", -1, -1, 1.2),
    ]
    read = flite.read(entry("Go on", [("go", "Go"), ("on", "on")], segments, wav="a.wav"), final=",")
    assert read.phones == ["pau", "g", "ow1", "pau", "aa1", "n", ","]
    start, end, durations = labelled(read, seconds=1.2)
    assert durations == [15, 10, 20, 10, 20, 10, 15]
    assert sum(durations) * SLOT == pytest.approx(end - start)


@pytest.mark.parametrize(
    ("gap", "mark"),
    [
        (" ", ""),
        (", ", ","),
        ('," ', ","),
        (" -- ", "-"),
        (" - ", "-"),
        ("; ", ";"),
        ("?", "?"),
        ("... ", ","),
        (". ", "."),
        (" (", ","),
        ("!)", "!"),
    ],
)
def test_marks_between_words(gap: str, mark: str) -> None:
    assert flite._mark(gap) == mark


def test_single_readers_hold_out_sentences_with_all_takes_and_crowds_hold_out_speakers() -> None:
    clips = [("anna", f"Sentence {i % 300}.") for i in range(400)]
    out = heldout(clips)
    assert out == heldout(random.Random(0).sample(clips, len(clips))), "the order of files must not matter"
    assert 25 <= sum(sentence_key(text) in out for _, text in clips) <= 27
    assert not heldout([("anna", "One clip.")])
    crowd = [(f"s{i % 40}", f"Sentence {i}.") for i in range(400)]
    assert len(heldout(crowd)) == 2 and heldout(crowd) <= {speaker for speaker, _ in crowd}


def test_sentence_key_ignores_case_and_punctuation() -> None:
    assert sentence_key("It's  done, isn't it?") == sentence_key("it's done isn't it") != sentence_key("it's done")


def test_sentences_for_flite_avoid_heldout_ones_and_oddities() -> None:
    heldout_keys = {sentence_key(s) for s in prepare.heldout_sentences()}
    assert len(heldout_keys) == 300
    ordinary = [
        f"The {a} man met a {b} woman there."
        for a in ("old", "young", "tall", "sad")
        for b in ("rich", "poor", "kind", "loud", "shy")
    ]
    texts = [
        *prepare.heldout_sentences(),
        *ordinary,
        "In 1984 it rained all day.",
        "Too short.",
        "NATO met for the first time.",
        "Wait... what is that thing?",
    ]
    lines = prepare.flite_lines([texts], 0.005, heldout_keys)
    assert lines and {line.text for line in lines} <= set(ordinary)
    assert len({line.id for line in lines}) == len(lines)
    assert set(Counter(line.person.speaker for line in lines)) == set(prepare.FLITE_SHARES)
    with pytest.raises(UserError, match="too few"):
        prepare.flite_lines([ordinary], 5, heldout_keys)


def row(key: str, **more: Any) -> dict[str, Any]:
    attributes = {
        "rate": 11.0,
        "pitch": 200.0,
        "pitch_range": 3.0,
        "loudness": -23.0,
        "brightness": -18.0,
        "breathiness": 0.3,
        "pauses": 0.0,
    }
    common = {
        "id": key,
        "source": "s",
        "made": "recording",
        "speaker": "anna",
        "voice": "anna",
        "gender": 1.0,
        "age": 0.0,
    }
    return (
        common
        | {
            "pitch": [0.0, 200.0],
            "score": -12.0,
            "median_pitch": 200.0,
            "attributes": attributes,
            "label": None,
            "split": "train",
        }
        | more
    )


def test_parts_survive_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.add(row("a"))
    parts.add({"id": "b", "source": "s", "rejected": "silence"})
    with (tmp_path / "parts" / "s.jsonl").open("a") as file:
        file.write('{"id": "c", "sour')
    again = Parts(tmp_path)
    assert "a" in again and "b" in again and "c" not in again
    again.add(row("c"))
    assert set(Parts(tmp_path).rows) == {"a", "c"}


def test_doubtful_recordings_go_with_their_variants(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    for i in range(20):
        parts.rows[f"r{i}"] = row(f"r{i}", score=-12.0 + 0.1 * (i % 5))
    parts.rows["bad"] = row("bad", score=-40.0)
    parts.rows["bad-w0"] = row("bad-w0", made="world", source="world", parent="bad")
    parts.rows["man"] = row("man", median_pitch=105.0)
    parts.rows["low"] = row("low-w0", made="world", source="world", parent="r1", median_pitch=90.0)
    manifest.drop_doubtful(parts)
    assert set(parts.rejects) == {"bad", "bad-w0", "man"}
    assert "somebody else" in parts.rejects["man"]["rejected"]


def test_manifest_scores_against_people_and_against_the_voice(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    for i in range(5):
        parts.rows[f"r{i}"] = row(f"r{i}")
    fast = row("f")["attributes"] | {"rate": 15.0}
    parts.rows["f"] = row("f", made="world", source="world", parent="r1", attributes=fast, settings={"stretch": 0.7})
    rows = manifest.write(tmp_path, parts, lambda row, rng: [f"{row['id']} {rng.random()}"])
    written = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert written == rows and len(rows) == 6
    assert rows[-1]["voice_z"]["rate"] > 1 and rows[0]["voice_z"]["rate"] == 0
    assert rows[-1]["z"].keys() == rows[-1]["attributes"].keys()
    with pytest.raises(UserError, match="no clip"):
        manifest.write(tmp_path, Parts(tmp_path / "empty"), lambda row, rng: [])


def test_scores_of_a_derived_reader_and_of_a_whisper(tmp_path: Path) -> None:
    lively = row("f")["attributes"] | {"pitch_range": 6.0, "pitch": 110.0}
    arthur = {
        "made": "world",
        "parent": "r0",
        "speaker": "arthur",
        "voice": "arthur",
        "gender": -1.0,
        "attributes": lively,
    }
    whisper = row("f")["attributes"] | {"pitch_range": 0.0, "breathiness": 0.9}
    rows = [
        row("r0"),
        row("a0", settings={"pitch": 0.55, "formants": 0.84}, **arthur),
        row(
            "a1",
            settings={"pitch": 0.55, "formants": 0.84, "range": 0.3},
            **arthur | {"attributes": lively | {"pitch_range": 2.0}},
        ),
        row("w0", made="world", parent="r0", settings={"whisper": 1.0}, pitch=[0.0, 0.0], attributes=whisper),
    ]
    manifest.score(rows)
    assert set(rows[1]["voice_z"].values()) == {0.0}
    assert rows[2]["voice_z"]["pitch_range"] < -1
    assert rows[3]["voice_z"]["pitch_range"] == 0 and rows[3]["voice_z"]["breathiness"] > 1


def test_stretch_scales_without_drift() -> None:
    phones = ["pau", *["n", "ow1"] * 50, ",", *["s", "iy1"] * 50, "."]
    durations = [15, *[3, 4] * 50, 11, *[5, 6] * 50, 15]
    for factor in (0.7, 1.0, 1.3):
        new = stretched(phones, durations, Change(stretch=factor, pauses=2.0))
        assert new[0] == new[-1] == 15 and min(new) >= 2
        assert abs(sum(new[1:-1]) - factor * (sum(durations[1:-1]) + 11)) <= 1
    assert stretched(phones, durations, Change()) == durations


def test_draws_are_within_bounds_and_always_change_something() -> None:
    rng = np.random.default_rng(0)
    changes = [draw_change(rng) for _ in range(300)]
    assert Change() not in changes
    assert all(0.74 < c.pitch < 1.34 and 0.3 <= c.range <= 1.8 and 0.66 < c.stretch < 1.43 for c in changes)
    assert 3 < sum(c.whisper for c in changes) < 50


def speech_like(seconds: float = 1.0) -> np.ndarray:
    """A gliding tone with formant-like weights, silence around it."""
    hertz = 190 * 2 ** (np.sin(np.linspace(0, 6, round(seconds * RATE))) / 6)
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    wave = sum(np.sin(k * phase + k) / (1 + ((k * 190 - 700) / 500) ** 2) for k in range(1, 40))
    return np.concatenate([np.zeros(RATE // 10), 0.1 * wave, np.zeros(RATE // 10)])


@pytest.mark.parametrize(
    "change",
    [
        Change(),
        Change(pitch=0.7, stretch=1.3),
        Change(pitch=1.3, formants=1.18, tilt=-3),
        Change(range=0.3, breath=0.6),
    ],
)
def test_resynthesis_does_what_was_asked(change: Change) -> None:
    pytest.importorskip("pyworld")
    phones, durations = ["pau", "ow1", "iy1", "."], [10, 60, 40, 10]
    wav = speech_like()
    before = pitch_track(wav, RATE)
    out, new, track = resynthesise(analyse(wav, RATE), phones, durations, change)
    assert len(out) == sum(new) * RATE // 100 and len(track) == sum(new)
    assert sum(new[1:-1]) == round(100 * change.stretch)
    after = pitch_track(out, RATE)
    assert np.median(after[after > 0]) == pytest.approx(change.pitch * np.median(before[before > 0]), rel=0.04)
    heard = (after > 0) & (track > 0)
    assert heard.mean() > 0.6
    assert np.median(np.abs(12 * np.log2(after[heard] / track[heard]))) < 0.3, "the track tells what is heard"


def test_a_whisper_has_no_pitch() -> None:
    pytest.importorskip("pyworld")
    out, _, track = resynthesise(analyse(speech_like(), RATE), ["pau", "ow1", "."], [10, 100, 10], Change(whisper=True))
    assert not track.any() and (pitch_track(out, RATE) > 0).mean() < 0.15


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (None, "metadata.csv"),
        ("file,speaker\na.wav,anna\n", "columns"),
        ("", "columns"),
    ],
)
def test_bad_sources_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: str | None, told: str
) -> None:
    monkeypatch.setattr(flite, "program", lambda: Path("flite_dump"))
    if files is not None:
        (tmp_path / "metadata.csv").write_text(files)
    with pytest.raises(UserError, match=told):
        prepare.prepare([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_asking_for_nothing_or_without_flite_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="nothing to prepare"):
        prepare.prepare([], tmp_path / "out")
    with pytest.raises(UserError, match="--sentences"):
        prepare.prepare([], tmp_path / "out", flite_hours=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SOLFA_FLITE_DUMP", raising=False)
    (tmp_path / "metadata.csv").write_text("file,speaker,text\na.wav,anna,Hello there.\n")
    with pytest.raises(UserError, match="flite1-dev"):
        prepare.prepare([tmp_path], tmp_path / "out")


def test_the_command_from_flite_to_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flite stands in for a reader: her recordings are aligned, measured, varied and described; a second run adds nothing."""
    for module in ("pocketsphinx", "pyworld"):
        pytest.importorskip(module)
    try:
        flite.program()
    except UserError as e:
        pytest.skip(str(e))
    monkeypatch.setattr(prepare, "_parallel", lambda work, jobs, workers: map(work, jobs))
    texts = [
        "We walked along the river for an hour.",
        "Nobody had seen the letter, or so they said.",
        "Is there any bread left?",
    ]
    source = tmp_path / "reader"
    spoken = flite.run("slt", {f"c{i}": text for i, text in enumerate(texts)}, tmp_path)
    source.mkdir()
    with (source / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "speaker", "text", "style", "language", "duration_s"])
        for key, told in spoken.items():
            write_wav(source / f"{key}.wav", read_audio(told["wav"]).samples, 16_000)
            table.writerow([f"{key}.wav", "rita", told["text"], "", "en", ""])
        table.writerow(["lost.wav", "rita", "This file is lost.", "", "en", ""])
    (tmp_path / "sentences.txt").write_text(
        "".join(f"The {w} man met a young woman there.\n" for w in "old tall sad kind shy loud poor rich".split())
    )
    out = tmp_path / "out"

    def run() -> list[dict[str, Any]]:
        code = prepare.prepare([source], out, flite_hours=0.002, sentences=[tmp_path / "sentences.txt"], world=1)
        assert code == 1, "a lost file makes the batch a partial failure"
        return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]

    rows = run()
    made = Counter(row["made"] for row in rows)
    assert made["recording"] == made["world"] == 3 and made["flite"] >= 3
    for one in rows:
        audio = read_audio(out / one["audio"])
        assert audio.sample_rate == RATE and len(audio.samples) == sum(one["durations"]) * RATE // 100
        assert (
            len(one["phones"])
            == len(one["word_index"])
            == len(one["durations"])
            == len(one["pitch"])
            == len(one["energy"])
        )
        assert (
            one["phones"][0] == "pau" and one["phones"][-1] in ".?" and max(one["word_index"]) == len(one["words"]) - 1
        )
        assert one["descriptions"] and one["split"] == "train"
    assert [json.loads(line)["id"] for line in (out / "rejects.jsonl").read_text().splitlines()] == ["reader-lost"]
    assert run() == rows
