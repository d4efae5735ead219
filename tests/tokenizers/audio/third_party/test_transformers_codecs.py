"""Codecs of others, tiny and with random weights: the contract of `Codec`, the codes of `transformers` itself, files, commands."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from solfa import AudioTokenizer, UserError
from solfa.cli import run
from solfa.tokenizers.audio.audio_file import write_wav
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.third_party import transformers_codecs
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset
from solfa.tokenizers.evaluation.evaluate_codec import evaluate

transformers = pytest.importorskip("transformers")

TINY: dict[str, dict[str, Any]] = {
    "mimi": dict(
        num_filters=4, hidden_size=16, codebook_size=16, codebook_dim=8, vector_quantization_hidden_dimension=8, num_quantizers=4,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=16, upsample_groups=16,
    ),
    "encodec": dict(num_filters=4, hidden_size=8, target_bandwidths=[1.5, 3.0]),
    "dac": dict(
        sampling_rate=24_000, downsampling_ratios=[2, 4, 5, 8], n_codebooks=3, codebook_size=16, codebook_dim=4,
        encoder_hidden_size=4, decoder_hidden_size=32,
    ),
    "xcodec2": dict(
        hidden_size=64, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        encoder_hidden_size=4, quantization_dim=96,
        semantic_model_config=dict(model_type="wav2vec2-bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16),
    ),
    "higgs_audio_v2_tokenizer": dict(
        codebook_size=16, codebook_dim=8, target_bandwidths=[0.1, 0.2, 0.4],
        acoustic_model_config=dict(
            model_type="dac", encoder_hidden_size=4, decoder_hidden_size=32, downsampling_ratios=[8, 5, 4, 2, 3],
            upsampling_ratios=[8, 5, 4, 2, 3], hidden_size=8,
        ),
        semantic_model_config=dict(
            model_type="hubert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        ),
    ),
}  # fmt: skip
SHAPES = {  # sample rate, hop, codes in each book
    "mimi": (24_000, 1920, (16,) * 4),
    "encodec": (24_000, 320, (1024,) * 4),
    "dac": (24_000, 320, (16,) * 3),
    "xcodec2": (16_000, 320, (65_536,)),
    "higgs_audio_v2_tokenizer": (24_000, 960, (16,) * 4),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints as `transformers` writes them, of the kinds that the installed version has."""
    found = {}
    for kind, config in TINY.items():
        if hasattr(transformers, transformers_codecs.FAMILIES[kind].model_class):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = transformers_codecs.untrained(kind, **config).model
                rouse(model)
            found[kind] = tmp_path_factory.mktemp("foreign") / f"tiny-{kind}"
            model.save_pretrained(found[kind])
    return found


@torch.no_grad()
def rouse(model: Any) -> None:
    """Untrained, every sound has the same codes: codebooks are zero, and what is heard is too faint for them."""
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.") and name.endswith("bias"):
            parameter.zero_()
        if name == "quantizer.project_in.weight":
            parameter.mul_(300)
    if hasattr(model.quantizer, "encode"):
        latents: list[Tensor] = []
        encode = model.quantizer.encode

        def listen(z: Tensor, *rest: Any) -> Tensor:
            latents.append(z)
            return encode(z, *rest)

        model.quantizer.encode = listen
        model.encode(sound(48_000)[:, None])
        del model.quantizer.encode
        spread = float(latents[0].std())
        for name, buffer in model.named_buffers():
            if name.endswith(("embed", "embed_sum")):
                buffer.normal_(std=spread)


@pytest.fixture(params=TINY)
def kind(request: pytest.FixtureRequest, folders: dict[str, Path]) -> str:
    if request.param not in folders:
        pytest.skip(
            f"transformers {transformers.__version__} has no {transformers_codecs.FAMILIES[request.param].model_class}"
        )
    return request.param


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Codec]:
    return {kind: AudioTokenizer.from_pretrained(folder) for kind, folder in folders.items()}


@pytest.fixture
def codec(kind: str, loaded: dict[str, Codec]) -> Codec:
    return loaded[kind]


def sound(samples: int, rows: int = 1, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(seed))


def test_what_it_says_of_itself(codec: Codec, kind: str) -> None:
    assert (codec.sample_rate, codec.hop, codec.codebook_sizes) == SHAPES[kind]
    assert codec.name == f"tiny-{kind}"
    assert codec.lm_books == codec.books
    bits = sum(np.log2(codec.codebook_sizes))
    assert codec.bitrate() == pytest.approx(codec.sample_rate / codec.hop * bits)
    assert not codec.training


@pytest.mark.parametrize("parts", [0.01, 1.0, 2.5, 7.999])
def test_frames_and_samples_are_exact(codec: Codec, parts: float) -> None:
    samples = round(parts * codec.hop)
    frames = -(-samples // codec.hop)
    codes = codec.encode(sound(samples), codec.sample_rate)
    assert (codes.dtype, codes.shape) == (torch.int64, (1, codec.books, frames))
    wav = codec.decode(codes)
    assert (wav.dtype, wav.shape) == (torch.float32, (1, frames * codec.hop))
    assert torch.isfinite(wav).all()


def test_codes_depend_on_the_sound(codec: Codec) -> None:
    a, b = (codec.encode(sound(20 * codec.hop, seed=seed), codec.sample_rate) for seed in (1, 2))
    assert len(a.unique()) > 1
    assert not torch.equal(a, b)
    assert not torch.equal(codec.decode(a), codec.decode(b))


def test_fewer_books_are_the_first(codec: Codec) -> None:
    wav = sound(9 * codec.hop)
    everything = codec.encode(wav, codec.sample_rate)
    assert everything.shape == (1, codec.books, 9)
    for books in range(1, codec.books + 1):
        assert torch.equal(codec.encode(wav, codec.sample_rate, books=books), everything[:, :books])
        assert codec.decode(everything[:, :books]).shape == wav.shape


@pytest.mark.parametrize("sample_rate", [None, 44_100])
def test_rows_of_a_padded_batch_are_those_alone(codec: Codec, sample_rate: int | None) -> None:
    rate = sample_rate or codec.sample_rate
    lengths = torch.tensor([7, 4, 1]) * 2 * codec.hop - 5
    wav = sound(int(lengths.max()) + 9, rows=3)  # what follows a row's end is anything
    codes = codec.encode(wav, rate, lengths)
    assert codes.shape == codec.encode(wav, rate).shape
    for row, end, found in zip(wav, lengths.tolist(), codes, strict=True):
        alone = codec.encode(row[:end], rate)[0]
        assert torch.equal(found[:, : alone.shape[1]], alone)


def test_codes_are_those_of_transformers(codec: Codec, kind: str, folders: dict[str, Path]) -> None:
    """As its documentation has it: the model's own feature extractor, then the model."""
    model = getattr(transformers, transformers_codecs.FAMILIES[kind].model_class).from_pretrained(folders[kind]).eval()
    samples = 6 * codec.hop - 7
    wav = sound(samples)
    if kind == "xcodec2":
        inputs = transformers.Xcodec2FeatureExtractor()(wav[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    else:
        inputs = {"input_values": torch.nn.functional.pad(wav, (0, 7))[:, None]}
    with torch.inference_mode():
        if kind in ("encodec", "higgs_audio_v2_tokenizer"):
            inputs["bandwidth"] = max(model.config.target_bandwidths)
        codes = model.encode(**inputs).audio_codes
        codes = codes[0] if kind == "encodec" else codes
        made = model.decode(codes[None], [None])[0] if kind == "encodec" else model.decode(audio_codes=codes)[0]
    assert torch.equal(codec.encode(wav, codec.sample_rate), codes.long())
    made = made.reshape(1, -1)
    torch.testing.assert_close(codec.decode(codes)[:, : made.shape[1]], made)


def test_fingerprint_is_of_what_decides_codes(
    kind: str, folders: dict[str, Path], loaded: dict[str, Codec], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    def changed(part: str, deciding: bool) -> Codec:
        tensors = load_file(folders[kind] / "model.safetensors")
        for name in tensors:
            if tensors[name].is_floating_point() and (name in decisive) is deciding:
                tensors[name] = tensors[name] + 0.1
        folder = shutil.copytree(folders[kind], tmp_path / part)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return AudioTokenizer.from_pretrained(folder)

    decisive = transformers_codecs.deciding_tensors(folders[kind])
    codec = loaded[kind]
    wav = sound(9 * codec.hop)
    codes = codec.encode(wav, codec.sample_rate)
    better_decoder, other = changed("decoder", deciding=False), changed("encoder", deciding=True)
    assert better_decoder.fingerprint == codec.fingerprint != other.fingerprint
    assert torch.equal(better_decoder.encode(wav, codec.sample_rate), codes)
    assert not torch.equal(better_decoder.decode(codes), codec.decode(codes))
    assert not torch.equal(other.encode(wav, codec.sample_rate), codes)


def test_tokenize_then_reconstruct(folders: dict[str, Path], loaded: dict[str, Codec], tmp_path: Path) -> None:
    lengths = {"a": 11_000, "b": 30_123, "c": 24_000}
    for seed, (name, samples) in enumerate(lengths.items()):
        write_wav(tmp_path / "in" / f"{name}.wav", sound(samples, seed=seed)[0].numpy(), 24_000)
    codec = ["--codec", str(folders["mimi"])]
    assert run(["tokenize", str(tmp_path / "in"), "-o", str(tmp_path / "t"), *codec]) == 0
    rows = list(TokenDataset(tmp_path / "t", loaded["mimi"].fingerprint))
    assert [row["codes"].shape for row in rows] == [(4, -(-samples // 1920)) for samples in lengths.values()]
    assert run(["reconstruct", str(tmp_path / "t"), "-o", str(tmp_path / "out"), "--books", "3", *codec]) == 0
    for row in rows:
        made, rate = soundfile.read(tmp_path / "out" / f"{row['id']}.wav", dtype="float32")
        wav = loaded["mimi"].decode(row["codes"][None, :3])[0, : lengths[row["id"]]].numpy()
        assert (rate, len(made)) == (24_000, len(wav))
        assert np.abs(made - wav.clip(-1, 1)).max() < 1e-4
    assert (
        run(["reconstruct", str(tmp_path / "t"), "-o", str(tmp_path / "out"), "--overwrite"]) == 2
    )  # by the bundled codec


def test_other_commands_take_them(
    kind: str, folders: dict[str, Path], speech_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([str(speech_clip)], str(folders[kind])) == 0
    assert f"tiny-{kind[:5]}" in capsys.readouterr().out  # a long name is cut
    assert run(["reconstruct", str(speech_clip), "-o", str(tmp_path / "again.wav"), "--codec", str(folders[kind])]) == 0
    assert soundfile.info(tmp_path / "again.wav").samplerate == SHAPES[kind][0]


def test_demo_takes_one_book_and_many(codec: Codec, speech_clip: Path) -> None:
    gradio = pytest.importorskip("gradio")
    from solfa.demos import app

    with gradio.Blocks() as page:
        app.reconstruct_tab(codec)
    (slider,) = [block for block in page.blocks.values() if isinstance(block, gradio.Slider)]
    assert slider.visible is (codec.books > 1)
    made, *_ = app.reconstruct(codec, app.read_recording(codec, str(speech_clip)), codec.lm_books)
    assert made is not None
    assert made[0] == codec.sample_rate


def test_books_of_65536_codes_fit_in_shards(folders: dict[str, Path], speech_clip: Path, tmp_path: Path) -> None:
    if "xcodec2" not in folders:
        pytest.skip("this transformers has no X-Codec 2")
    assert run(["tokenize", str(speech_clip), "-o", str(tmp_path / "t"), "--codec", str(folders["xcodec2"])]) == 0
    (row,) = TokenDataset(tmp_path / "t")
    assert 2**15 <= row["codes"].max() < 2**16


def test_moving_after_use(folders: dict[str, Path]) -> None:
    """Mimi keeps codebooks that it computed; they have to move with it."""
    codec = AudioTokenizer.from_pretrained(folders["mimi"])
    codes = codec.encode(sound(4000), 24_000)
    made = codec.decode(codes).double()
    torch.testing.assert_close(codec.double().decode(codes), made, atol=1e-5, rtol=1e-3)


def refused(folder: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        AudioTokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_folders_that_cannot_be_used(
    folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def copy(name: str, **config: Any) -> Path:
        folder = shutil.copytree(folders["mimi"], tmp_path / name)
        header = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**header, **config}))
        return folder

    refused(copy("a", model_type="bert"), "type 'bert'; audio tokenizers that can be read: mimi, encodec")
    refused(copy("b", num_hidden_layers=2), r"do not fit MimiModel: \d+ are missing or of another shape.*kyutai/mimi")
    refused(copy("c", codebook_size=32), "cannot be read as MimiModel|do not fit MimiModel")
    refused(copy("d", num_filters="many"), "cannot be read as MimiModel")
    refused(copy("e", audio_channels=2), "do not fit|2 channels|cannot be read as MimiModel")
    folder = copy("f")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-8])
    refused(folder, "model.safetensors is damaged or not a safetensors file")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "has no model.safetensors")
    refused(copy("g", num_hidden_layers=10**8), "asks for more")
    refused(copy("h", hidden_size=-8), "cannot be read as MimiModel")
    folder = copy("i")
    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "NaN or infinite weights")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")  # the sentence is all


@pytest.mark.parametrize("said", [{}, {"model_type": "mimo_audio_tokenizer"}])
def test_mimos_comes_the_same_way(said: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(Path(__file__).parent / "mimo" / "fixtures" / "published", tmp_path / "mimo")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **said}))
    codec = AudioTokenizer.from_pretrained(folder)
    assert (type(codec).__name__, codec.name) == ("MiMoAudioTokenizer", "mimo")
    codes = codec.encode(sound(5000), 24_000)
    assert codec.decode(codes).shape == (1, codes.shape[2] * codec.hop)


def test_stereo_encodec_in_chunks_is_refused() -> None:
    with pytest.raises(UserError, match="2 channels"):
        transformers_codecs.untrained("encodec", **{**TINY["encodec"], "audio_channels": 2})
    with pytest.raises(UserError, match="loudness for each chunk"):
        transformers_codecs.untrained("encodec", **TINY["encodec"], chunk_length_s=1.0, overlap=0.01, normalize=True)


def test_transformers_too_old_or_missing(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_codecs.Mimi, "model_class", "MimiModelOfTheFuture")
    refused(folders["mimi"], "needs transformers 4.45 or newer, and .* is installed")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(folders["encodec"], r"EncodecModel needs transformers: run pip install '\.\[codecs\]'")
