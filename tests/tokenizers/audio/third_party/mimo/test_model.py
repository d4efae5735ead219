"""MiMo-Audio-Tokenizer: agreement with the reference, batches, segments, files.

`fixtures/` holds numbers that the reference implementation produced: XiaomiMiMo/MiMo-Audio at commit 691ce54, its modules
`src/mimo_audio_tokenizer`, in float32 on a CPU, with a dense masked softmax attention in place of its only function from
flash-attn, `flash_attn_varlen_func`.  Each folder is one small random configuration, in the published layout (weights and
codebooks rounded to bf16; books drawn from the residuals that meet them, so that every code is used), and `expected.safetensors`
with three clips (16-bit samples), the log-mel spectrum of the first as the reference's program makes it (torchaudio's
MelSpectrogram), the codes of each as `encoder.encode` gives them, and what `decode` makes of the first clip's codes, and of
two books of its first 17 frames.  A clip shorter than half an STFT window, which the reference refuses, has no codes there.

    published   as the published tokenizer, smaller: encoder that hears all, with a skip, causal decoder, vocoder window 40 and 10
    windowed    windows everywhere, causal encoder, no skip, no pooling, RMSNorm, SiLU, one book size, decoder kernel 4
    pooled      pooling by 3, stride 1, half-open windows, skip from the first layer, more book sizes than books, ReLU
    both_ways   bounded windows to both sides in the encoder, no window in the vocoder

`published_names.txt`: names and shapes of the reference's state dict for the published configuration, `published_config.json`.
"""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from solfa.core.errors import UserError
from solfa.tokenizers.audio.third_party.mimo.config import SEGMENT, MiMoAudioTokenizerConfig, read_config
from solfa.tokenizers.audio.third_party.mimo.model import MiMoAudioTokenizer, log_mel
from solfa.tokenizers.audio.third_party.mimo.transformer import attend

FIXTURES = Path(__file__).parent / "fixtures"
CASES = ["published", "windowed", "pooled", "both_ways"]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[MiMoAudioTokenizer, dict[str, Tensor]]:
    """A tokenizer, and the reference's numbers: clips are float, codes int64."""
    folder = FIXTURES / request.param
    expected = load_file(folder / "expected.safetensors")
    for name, value in expected.items():
        if value.dtype == torch.int16:
            expected[name] = value.float() / 32768 if name.endswith("wav") else value.long()
    return MiMoAudioTokenizer.from_folder(folder), expected


@pytest.fixture(scope="module")
def codec() -> MiMoAudioTokenizer:
    return MiMoAudioTokenizer.from_folder(FIXTURES / "published")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- the reference ---------------------------------------------------------------------------------------------------


def test_codes_are_the_references(case: tuple[MiMoAudioTokenizer, dict[str, Tensor]]) -> None:
    codec, expected = case
    assert torch.allclose(
        log_mel(expected["0.wav"], codec.config), expected["0.mel"], atol=1e-4
    )  # FFTs differ between CPUs
    for clip in ("0", "1", "2"):
        if f"{clip}.codes" in expected:
            wav, theirs = expected[f"{clip}.wav"], expected[f"{clip}.codes"]
            frames = -(-len(wav) // codec.hop)  # theirs has one more where the last frame is full
            assert theirs.shape[1] == len(wav) // codec.hop + 1
            assert torch.equal(codec.encode(wav, codec.sample_rate)[0], theirs[:, :frames])


def test_waveform_is_the_references(case: tuple[MiMoAudioTokenizer, dict[str, Tensor]]) -> None:
    codec, expected = case
    codes = expected["0.codes"][None]
    assert (codec.decode(codes)[0] - expected["0.decoded"]).abs().max() < 1e-5
    assert (codec.decode(codes[:, :2, :17])[0] - expected["0.decoded_2_books_17_frames"]).abs().max() < 1e-5


def test_published_names_and_shapes() -> None:
    theirs = {}
    for line in (FIXTURES / "published_names.txt").read_text().splitlines():
        name, *shape = line.split()
        first, last = re.findall(r"layers\.(\d+)-(\d+)\.", name)[0] if "-" in name else (0, 0)
        for number in range(int(first), int(last) + 1):
            theirs[re.sub(r"\d+-\d+", str(number), name)] = tuple(map(int, shape))
    with torch.device("meta"):
        ours = MiMoAudioTokenizer(read_config(FIXTURES / "published_config.json")).state_dict()
    assert {name: tuple(value.shape) for name, value in ours.items()} == theirs
    assert len(theirs) == 1305


def test_published_numbers() -> None:
    """25 frames a second; 1.55 kbps in the 8 books that MiMo's language models speak, 3.65 in all 20."""
    assert read_config(FIXTURES / "published_config.json") == MiMoAudioTokenizerConfig()
    with torch.device("meta"):
        codec = MiMoAudioTokenizer(MiMoAudioTokenizerConfig())
    assert (codec.sample_rate, codec.hop, codec.frame_rate) == (24_000, 960, 25.0)
    assert (codec.books, codec.lm_books, codec.codebook_size) == (20, 8, 1024)
    assert (codec.bitrate(8), codec.bitrate()) == (1550.0, 3650.0)


def test_short_list_of_book_sizes_goes_on() -> None:
    assert MiMoAudioTokenizerConfig(codebook_size=(32, 8), num_quantizers=4).codebook_sizes == (32, 8, 8, 8)


# ---- what every codec promises -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 239, 480, 481, 960, 961, 5000])
def test_frames_and_types(case: tuple[MiMoAudioTokenizer, dict[str, Tensor]], samples: int) -> None:
    codec, _ = case
    frames = -(-samples // codec.hop)
    codes = codec.encode(noise(samples), codec.sample_rate)
    assert codes.shape == (1, codec.books, frames) and codes.dtype == torch.int64
    wav = codec.decode(codes)
    assert wav.shape == (1, frames * codec.hop) and wav.dtype == torch.float32 and torch.isfinite(wav).all()


def test_row_of_a_batch_is_as_alone(case: tuple[MiMoAudioTokenizer, dict[str, Tensor]]) -> None:
    codec, _ = case
    lengths = [9001, 777, 8 * codec.hop, 6 * codec.hop + 1, 1]
    wav = noise(len(lengths), max(lengths))  # what follows the end of a row is noise, not silence
    together = codec.encode(wav, codec.sample_rate, torch.tensor(lengths))
    assert together.shape[2] == -(-max(lengths) // codec.hop)
    for row, samples, codes in zip(wav, lengths, together, strict=True):
        alone = codec.encode(row[:samples], codec.sample_rate)[0]
        assert torch.equal(codes[:, : alone.shape[1]], alone)


def test_row_of_a_resampled_batch_is_as_alone(codec: MiMoAudioTokenizer) -> None:
    wav, lengths = noise(2, 12_000), torch.tensor([12_000, 7001])
    together = codec.encode(wav, 16_000, lengths)
    alone = codec.encode(wav[1, :7001], 16_000)[0]
    assert together.shape[2] == 19
    assert torch.equal(together[1, :, : alone.shape[1]], alone)


def test_first_books_are_the_same_codes(codec: MiMoAudioTokenizer) -> None:
    wav = noise(7000)
    assert torch.equal(codec.encode(wav, 24_000, books=3), codec.encode(wav, 24_000)[:, :3])


def test_decoded_rows_do_not_mix(codec: MiMoAudioTokenizer) -> None:
    codes = torch.cat([codec.encode(noise(9600, seed=seed), 24_000) for seed in (1, 2)])
    assert torch.allclose(codec.decode(codes)[1], codec.decode(codes[1:])[0], atol=1e-6)


def test_long_audio_goes_in_segments() -> None:
    """Each segment on its own: the second hears nothing of the first but half an STFT window, nor is it decoded with it."""
    folder = FIXTURES / "both_ways"
    codec = MiMoAudioTokenizer(
        replace(read_config(folder / "config.json"), vocoder_attn_window_size=(3, 2))
    ).eval()  # quick
    codec.load_state_dict(load_file(folder / "model.safetensors"))
    rate, end, frames = codec.sample_rate, SEGMENT * codec.config.hop_length, SEGMENT // codec.config.stride
    reach = codec.config.nfft // 2
    wav = noise(end + 5000)
    codes = codec.encode(wav, rate)
    later, earlier = wav.clone(), wav.clone()
    later[end + reach :] += noise(5000 - reach, seed=1)
    earlier[: end - reach] = 0
    later_codes, earlier_codes = codec.encode(later, rate), codec.encode(earlier, rate)
    assert torch.equal(codes[..., :frames], later_codes[..., :frames]) and not torch.equal(codes, later_codes)
    assert torch.equal(codes[..., frames:], earlier_codes[..., frames:]) and not torch.equal(codes, earlier_codes)
    parts = [codec.decode(codes[..., :frames]), codec.decode(codes[..., frames:])]
    assert torch.equal(codec.decode(codes), torch.cat(parts, dim=1))


@pytest.mark.parametrize(
    ("wav", "said"),
    [
        (torch.zeros(0), "empty"),
        (torch.zeros(9, dtype=torch.int16), "float"),
        (torch.zeros(1, 1, 9), "float"),
        (torch.full((9,), torch.nan), "NaN"),
    ],
)
def test_wrong_audio(codec: MiMoAudioTokenizer, wav: Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        codec.encode(wav, 24_000)


def test_code_past_its_book_is_refused(codec: MiMoAudioTokenizer) -> None:
    codes = torch.zeros(1, codec.books, 4, dtype=torch.long)
    codes[0, 2, 1] = 8  # the first two books have 32 codes, this one 8
    with pytest.raises(UserError, match="codes should lie"):
        codec.decode(codes)


def test_runs_in_bf16(codec: MiMoAudioTokenizer) -> None:
    half = MiMoAudioTokenizer.from_folder(FIXTURES / "published").bfloat16()
    codes = codec.encode(noise(24_000), 24_000)
    assert (half.encode(noise(24_000), 24_000)[:, 0] == codes[:, 0]).float().mean() > 0.8
    wav, rough = codec.decode(codes)[0], half.decode(codes)[0]
    assert rough.dtype == torch.float32
    assert (rough - wav).norm() < 0.1 * wav.norm()


# ---- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("back", "ahead"), [(-1, -1), (-1, 0), (7, 0), (0, 7), (5, 3), (0, 0), (40, 10), (-1, 3), (9, -1), (60, 30)]
)
@pytest.mark.parametrize("steps", [1, 2, 16, 63, 101])
def test_attention_is_exact(back: int, ahead: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    q, k, v = (torch.randn(2, 3, steps, 4, generator=generator) for _ in range(3))
    ends = [steps, steps // 3 + 1]
    valid = torch.arange(steps) < torch.tensor(ends)[:, None]
    padded = attend(q, k, v, back, ahead, valid)
    assert torch.isfinite(padded).all()
    for row, head in itertools.product(range(2), range(3)):
        for i in range(steps):
            span = slice(0 if back < 0 else max(0, i - back), steps if ahead < 0 else i + ahead + 1)
            keys, values = k[row, head, : ends[row]][span], v[row, head, : ends[row]][span]
            if i < ends[row]:
                want = (keys @ q[row, head, i] / 2).softmax(0) @ values
                assert torch.allclose(padded[row, head, i], want, atol=1e-5)
    assert torch.allclose(attend(q, k, v, back, ahead)[0], padded[0], atol=1e-6)


def test_windowed_attention_of_long_audio_needs_little_memory() -> None:
    """200,000 frames squared would be 160 GB."""
    q = torch.randn(1, 1, 200_000, 2, generator=torch.Generator().manual_seed(0))
    whole, part = attend(q, q, q, 5, 2), attend(q[:, :, -1000:], q[:, :, -1000:], q[:, :, -1000:], 5, 2)
    assert torch.allclose(whole[:, :, -995:], part[:, :, -995:], atol=1e-6)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a checkpoint, to spoil."""
    copy = tmp_path / "mimo"
    shutil.copytree(FIXTURES / "published", copy)
    return copy


def edit_config(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in (values | changes).items() if v != "absent"}))

    return edit


def edit_weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        (folder / "model.safetensors").unlink()
        save_file(tensors, folder / "model.safetensors")

    return edit


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (write("config.json", "{"), "not readable JSON"),
        (write("config.json", "[1]"), "not of a MiMo-Audio-Tokenizer"),
        (write("config.json", '{"model_type": "mimi"}'), "not of a MiMo-Audio-Tokenizer"),
        (edit_config(d_model="absent"), "no 'd_model'"),
        (edit_config(hybrid_attention=True), "'hybrid_attention'"),
        (edit_config(d_model="wide"), "d_model should be int"),
        (edit_config(rope_type="yarn"), "rope_type 'yarn'"),
        (edit_config(encoder_attention_heads=5), "heads"),
        (edit_config(vocoder_attn_window_size=[3]), "windows"),
        (edit_config(hop_length=0), "hop_length 0"),
        (edit_config(decoder_stride_size=3), "decoder_stride_size 3"),
        (edit_config(num_quantizers=6), "does not fit its config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (write("model.safetensors", "nothing"), "damaged"),
        (edit_weights(lambda t: t.pop("encoder.conv1.weight")), "1 tensors differ, first 'encoder.conv1.weight'"),
        (edit_weights(lambda t: t.update(extra=torch.zeros(1))), "1 tensors differ, first 'extra'"),
        (edit_weights(lambda t: t.update({"decoder.layer_norm.bias": torch.zeros(7)})), "'decoder.layer_norm.bias'"),
        (write(INDEX, "{}"), "not an index"),
        (write(INDEX, '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'), "has no model-00001"),
    ],
)
def test_wrong_folder_gets_one_sentence(folder: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        MiMoAudioTokenizer.from_folder(folder)
    assert "\n" not in str(error.value)


def test_shards(folder: Path, codec: MiMoAudioTokenizer) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    again = MiMoAudioTokenizer.from_folder(folder)
    assert again.fingerprint == codec.fingerprint
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in codec.state_dict().items())


def test_what_only_training_needs_may_be_absent(folder: Path, codec: MiMoAudioTokenizer) -> None:
    unused = ("inited", "cluster_size", "embed_avg", "istft.window")
    edit_weights(lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith(unused)])(folder)
    bare = MiMoAudioTokenizer.from_folder(folder)
    codes = codec.encode(noise(4000), 24_000)
    assert bare.fingerprint == codec.fingerprint
    assert torch.equal(bare.encode(noise(4000), 24_000), codes)
    assert torch.allclose(bare.decode(codes), codec.decode(codes), atol=1e-6)


def test_fingerprint_is_of_what_decides_codes(folder: Path, codec: MiMoAudioTokenizer) -> None:
    edit_weights(lambda tensors: tensors["decoder.layer_norm.bias"].add_(1))(folder)
    assert MiMoAudioTokenizer.from_folder(folder).fingerprint == codec.fingerprint
    edit_weights(lambda tensors: tensors["encoder.quantizer.vq.layers.0._codebook.embed"].add_(1))(folder)
    assert MiMoAudioTokenizer.from_folder(folder).fingerprint != codec.fingerprint
