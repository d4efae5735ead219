"""Audio tokenizers of others as `Codec`: Mimi, EnCodec, DAC, X-Codec 2 and Higgs Audio v2, run by `transformers`.

MiMo's is found here too, and runs in modules of our own (`third_party/mimo`).  A checkpoint folder is recognized by the
`model_type` in its config.json.  Weights are read from safetensors alone, and code that comes with a checkpoint is never run.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.core.guarded_build import limited_to, read_header, weight_files
from solfa.tokenizers.audio.codec import Codec

# Names of tensors that follow the codes, in published checkpoints: they do not decide codes, so not the fingerprint either.
AFTER_CODES = (
    "decoder.",
    "decoder_transformer.",
    "decoder_semantic.",
    "upsample.",
    "acoustic_decoder.",
    "fc1.",
    "fc2.",
)


class TransformersCodec(Codec):
    """A `transformers` model behind the interface of `Codec`; a subclass names the model and calls it.

    Rows of a padded batch are encoded apart: these models were published for single clips, and padding changes what most of
    them give.
    """

    rows_apart = True
    model_class: ClassVar[str]  # in `transformers`
    since: ClassVar[str]  # the first version of `transformers` that has it
    published: ClassVar[str]  # hub id of a checkpoint in the format of `transformers`

    def __init__(self, model: Any):
        super().__init__()
        if getattr(model.config, "audio_channels", 1) != 1:
            raise UserError(
                f"{self.model_class} with {model.config.audio_channels} channels cannot be used: audio here is mono"
            )
        self.model: Any = model.eval()
        self._sample_rate, self._hop, self._codebook_sizes = self.shape()

    @property
    def sample_rate(self) -> int:
        return self._sample_rate

    @property
    def hop(self) -> int:
        return self._hop

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self._codebook_sizes

    @abstractmethod
    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        """Sample rate in Hz, samples per code frame, codes in each book."""

    @abstractmethod
    def codes(self, x: Tensor, books: int) -> Tensor:
        """float32 (B, frames * hop) -> integers (B, `books` or more, `frames` or more)."""

    @abstractmethod
    def audio(self, codes: Tensor) -> Tensor:
        """int64 (B, k, frames) -> float32 (B, about frames * hop)."""

    def _encode(self, x: Tensor, books: int) -> Tensor:
        return self.codes(x, books)[:, :books, : x.shape[1] // self.hop].long()

    def _decode(self, codes: Tensor) -> Tensor:
        wav = self.audio(codes)
        return F.pad(wav, (0, codes.shape[2] * self.hop - wav.shape[1]))  # negative: cut


class Mimi(TransformersCodec):
    """Défossez et al. 2024, "Moshi": 12.5 frames per second; the first book is distilled from features of meaning."""

    model_class, since, published = "MimiModel", "4.45", "kyutai/mimi"

    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        c = self.model.config
        return c.sampling_rate, round(c.sampling_rate / c.frame_rate), (c.codebook_size,) * c.num_quantizers

    @property
    def lm_books(self) -> int:
        return min(8, self.books)  # what Moshi writes

    def codes(self, x: Tensor, books: int) -> Tensor:
        fewest = self.model.config.num_semantic_quantizers
        return self.model.encode(x[:, None], num_quantizers=max(books, fewest)).audio_codes

    def audio(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes).audio_values[:, 0]

    def _apply(self, fn: Any, recurse: bool = True) -> "Mimi":
        module: Any
        for module in self.modules():
            if hasattr(module, "_embed"):
                module._embed = None  # codebooks that the model worked out where it was used first
        return super()._apply(fn, recurse)


class BandedCodec(TransformersCodec):
    """A model that is asked for books by their bandwidth, of which it offers a few."""

    def _sizes(self) -> tuple[int, ...]:
        c, quantizer = self.model.config, self.model.quantizer
        return (c.codebook_size,) * min(
            quantizer.num_quantizers, quantizer.get_num_quantizers_for_bandwidth(max(c.target_bandwidths))
        )

    def _bandwidth(self, books: int) -> float:
        """The smallest one that has so many books."""
        books_of = self.model.quantizer.get_num_quantizers_for_bandwidth
        return next(b for b in sorted(self.model.config.target_bandwidths) if books_of(b) >= books)


class Encodec(BandedCodec):
    """Défossez et al. 2022, "High Fidelity Neural Audio Compression", the mono models."""

    model_class, since, published = "EncodecModel", "4.31", "facebook/encodec_24khz"

    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        c = self.model.config
        if c.normalize or c.chunk_length_s is not None:
            raise UserError(
                "this EnCodec keeps a loudness for each chunk beside the codes, which codes alone cannot hold: use hf:facebook/encodec_24khz"
            )
        return c.sampling_rate, math.prod(c.upsampling_ratios), self._sizes()

    def codes(self, x: Tensor, books: int) -> Tensor:
        return self.model.encode(x[:, None], bandwidth=self._bandwidth(books)).audio_codes[0]

    def audio(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes[None], [None]).audio_values[:, 0]


class Dac(TransformersCodec):
    """Kumar et al. 2023, "High-Fidelity Audio Compression with Improved RVQGAN"."""

    model_class, since, published = "DacModel", "4.44", "descript/dac_24khz"

    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        c = self.model.config
        return c.sampling_rate, c.hop_length, (c.codebook_size,) * c.n_codebooks

    def codes(self, x: Tensor, books: int) -> Tensor:
        return self.model.encode(x[:, None], n_quantizers=books).audio_codes

    def audio(self, codes: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes).audio_values


class XCodec2(TransformersCodec):
    """Ye et al. 2025, "Llasa": one book of 65,536 codes, from sound and from wav2vec2-BERT's features of its meaning."""

    model_class, since, published = "Xcodec2Model", "5.14", "HKUSTAudio/xcodec2-hf"

    def __init__(self, model: Any):
        import transformers

        super().__init__(model)
        self.extractor = transformers.Xcodec2FeatureExtractor(sampling_rate=self.sample_rate, hop_length=self.hop)

    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        c = self.model.config
        return c.sampling_rate, c.hop_length, (math.prod(c.quantization_levels),)

    def codes(self, x: Tensor, books: int) -> Tensor:
        # The extractor adds one sample of silence before it fills up the last frame: without it, x would become a frame longer.
        rows = list(x[:, :-1].cpu().numpy())
        inputs = self.extractor(rows, sampling_rate=self.sample_rate, return_tensors="pt")
        return self.model.encode(**inputs.to(x.device)).audio_codes

    def audio(self, codes: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes).audio_values[:, 0]


class Higgs(BandedCodec):
    """Boson AI's Higgs Audio v2 tokenizer: 25 frames per second, from sound and from HuBERT's features of its meaning."""

    model_class, since, published = "HiggsAudioV2TokenizerModel", "5.3", "bosonai/higgs-audio-v2-tokenizer"

    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        c = self.model.config
        return c.sample_rate, c.hop_length, self._sizes()

    def codes(self, x: Tensor, books: int) -> Tensor:
        return self.model.encode(x[:, None], bandwidth=self._bandwidth(books)).audio_codes

    def audio(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes).audio_values[:, 0]


FAMILIES: dict[str, type[TransformersCodec]] = {
    "mimi": Mimi,
    "encodec": Encodec,
    "dac": Dac,
    "xcodec2": XCodec2,
    "higgs_audio_v2_tokenizer": Higgs,
}
MIMO = "mimo_audio_tokenizer"


def model_type(folder: Path) -> str | None:
    """The `model_type` in a folder's config.json, as `transformers` names them; None for solfa's own and where there is none."""
    try:
        header = checkpoints.read_json(folder / "config.json")
    except UserError:
        return None
    if not isinstance(header, dict) or "kind" in header:
        return None
    found = header.get(
        "model_type", MIMO if "vocoder_num_layers" in header else None
    )  # MiMo's is published without a type
    return None if found is None else str(found)


def load_third_party(folder: Path, kind: str) -> Codec:
    """The codec in a folder of MiMo's or of `transformers`, of one of the kinds in `FAMILIES`, in evaluation mode and float32.

    Raises: UserError for another kind, for weights that are missing, damaged, not finite or of another format, and where
    `transformers` is missing or too old.
    """
    if kind == MIMO:
        from solfa.tokenizers.audio.third_party.mimo.model import MiMoAudioTokenizer

        return MiMoAudioTokenizer.from_folder(folder)
    if kind not in FAMILIES:
        raise UserError(
            f"{folder} holds a model of type {kind!r}; audio tokenizers that can be read: {', '.join([*FAMILIES, MIMO])}"
        )
    family = FAMILIES[kind]
    model_class = find(family)
    header = {name: tensor for path in weight_files(folder) for name, tensor in read_header(path).items()}
    with quiet(), limited_to(header, lambda reason: UserError(f"by its config.json {reason}"), exact=False):
        try:
            model, report = model_class.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except Exception as e:  # whatever a file of others makes of a library of others, by version
            reason = str(e).strip().partition("\n")[0] or type(e).__name__
            raise UserError(f"{folder} cannot be read as {family.model_class}: {reason}") from e
    if wrong := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise UserError(
            f"the weights in {folder} do not fit {family.model_class}: {len(wrong)} are missing or of another shape, first {wrong[0]}; "
            f"in the format of transformers there is hf:{family.published}"
        )
    checkpoints.check_finite(model.state_dict(), folder)
    codec = family(model.float())
    codec.fingerprint = checkpoints.fingerprint(deciding_tensors(folder))
    return codec.eval()


def untrained(kind: str, **config: Any) -> TransformersCodec:
    """A codec with random weights; `config` holds what differs from the defaults of `transformers`."""
    family = FAMILIES[kind]
    model_class = find(family)
    return family(model_class(model_class.config_class(**config))).eval()


def find(family: type[TransformersCodec]) -> Any:
    """The model's class in `transformers`.  Raises: UserError where it is missing or too old."""
    try:
        import transformers
    except ImportError:
        raise UserError(f"{family.model_class} needs transformers: run pip install '.[codecs]'") from None
    if not hasattr(transformers, family.model_class):
        raise UserError(
            f"{family.model_class} needs transformers {family.since} or newer, and {transformers.__version__} is installed"
        )
    return getattr(transformers, family.model_class)


def deciding_tensors(folder: Path) -> dict[str, Tensor]:
    """What decides codes, as stored: names in files stay when `transformers` renames its modules."""
    tensors = {key: value for path in weight_files(folder) for key, value in load_file(path).items()}
    return {key: value for key, value in tensors.items() if not key.startswith(AFTER_CODES)}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no tables of weights on stderr; what has to be said is raised."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
