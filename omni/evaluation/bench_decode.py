"""`solfa bench decode`: what a decoder with sliding layers and drafts saves when it writes, in bytes and in time.

Three tables: bytes of the cache beside full attention's; the time of one decoding step after so many, beside models of
`transformers` of the same size with their own caches; and writing text or audio with and without multi-token prediction.
Whatever is compared runs in turns, so that the rest of the machine's work strikes all of it.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table

from solfa.core.errors import UserError
from solfa.omni.decoder.cache import Turn, cache_bytes, cache_parts
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.generation.generate import generate_audio
from solfa.omni.generation.sampling import SamplingConfig
from solfa.omni.generation.speculative import generate_text
from solfa.omni.generation.speculative_audio import generate_audio_with_drafts
from solfa.omni.model.grid import Grid
from solfa.omni.model.omni_model import OmniModel
from solfa.omni.model.text_model import TextConfig, TextModel
from solfa.omni.training.packing import BYTES, AudioDocuments, SourceConfig

VOCAB, WINDOW = 8192, 128
_HEADS: dict[str, Any] = {"heads": 4, "kv_heads": 2, "qk_dim": 64, "v_dim": 64, "rotary_dim": 64}
SIZES = (4096, 32_768, 131_072, 1_048_576)
PROMPT, PROMPT_PATCHES = 24, 8  # bytes of a line, patches of a clip, that a model goes on from


def every(ratio: int) -> DecoderConfig:
    """The decoder that is measured: one layer in `ratio` has full attention, the last of each `ratio`; 1 is all of them."""
    layers = 18 if ratio == 6 else 16
    return DecoderConfig(
        dim=256, layers=layers, ffn_dim=768, full_layers=tuple(range(ratio - 1, layers, ratio)),
        full=AttentionConfig(rotary_base=640_000.0, **_HEADS), sliding=AttentionConfig(window=WINDOW, sink=True, **_HEADS),
    )  # fmt: skip


class Decoding(NamedTuple):
    """A model after `steps` steps: `step` reads one more, `nbytes` says what its cache takes."""

    step: Callable[[], object]
    nbytes: Callable[[], int]


def ours(steps: int, decoder: DecoderConfig) -> Decoding:
    torch.manual_seed(0)
    model = TextModel(TextConfig(VOCAB, decoder)).eval()
    cache = model.decoder.new_cache()
    cache.advance(1, steps, None)
    for i, layer in enumerate(cache.layers):
        a = decoder.attention_of(i)
        layer.append(
            torch.randn(1, a.kv_heads, steps, a.qk_dim), torch.randn(1, a.kv_heads, steps, a.v_dim), Turn(0, steps)
        )
    ids = torch.zeros(1, 1, dtype=torch.int64)
    return Decoding(lambda: model(ids, cache=cache), lambda: cache.nbytes)


def theirs(steps: int, decoder: DecoderConfig, static: bool = False) -> Decoding:
    """Qwen 2's design, which has layers of both types: in `transformers`, at the same sizes."""
    from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, StaticCache

    torch.manual_seed(0)
    a = decoder.full
    full = [i in decoder.full_layers for i in range(decoder.layers)]
    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=decoder.dim, intermediate_size=decoder.ffn_dim, num_hidden_layers=decoder.layers,
        num_attention_heads=a.heads, num_key_value_heads=a.kv_heads, max_position_embeddings=max(SIZES),
        use_sliding_window=not all(full), sliding_window=decoder.sliding.window,
        layer_types=["full_attention" if f else "sliding_attention" for f in full], tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    cache = StaticCache(config, max_cache_len=steps + 64) if static else DynamicCache(config=config)
    for i in range(decoder.layers):
        cache.update(*torch.randn(2, 1, a.kv_heads, steps, a.qk_dim), i, {"cache_position": torch.arange(steps)})
    ids = torch.zeros(1, 1, dtype=torch.int64)
    place = [steps]

    def step() -> object:
        at = torch.tensor([place[0]])
        place[0] += 1
        return model(ids, past_key_values=cache, use_cache=True, cache_position=at, position_ids=at[None])

    stores: list[Any] = list(cache.layers)
    return Decoding(step, lambda: sum(t.nbytes for layer in stores for t in (layer.keys, layer.values)))


@torch.no_grad()
def race(makers: dict[str, Callable[[], Decoding]], repeats: int) -> dict[str, tuple[float, int]]:
    """The fastest of `repeats` steps of each, in turns.  -> (seconds, bytes of the cache)."""
    models = {name: make() for name, make in makers.items()}
    laps: dict[str, list[float]] = {name: [] for name in models}
    for lap in range(repeats + 2):
        for name, model in models.items():
            began = time.perf_counter()
            model.step()
            if lap > 1:
                laps[name].append(time.perf_counter() - began)
    return {name: (min(laps[name]), model.nbytes()) for name, model in models.items()}


def size_table() -> Table:
    """Ours with the room that it reserves, full attention's without any."""
    title = f"bytes per step of context, of full attention's; float32, window {WINDOW}"
    made = Table("cache", *(f"{n:,} steps" for n in SIZES), title=title)
    for name, ratio in (("5:1", 6), ("7:1", 8)):
        config = every(ratio)
        full = config.layers * cache_parts(config)[1] // len(config.full_layers)
        cells = []
        for n in SIZES:
            own = cache_bytes(config, n) / n
            cells.append(f"{own:,.0f} of {full:,} (1/{full / own:.1f})")
        made.add_row(f"{name}, {config.layers} layers", *cells)
    return made


def step_table(lengths: list[int], repeats: int) -> Table:
    """One step after so many: ours with one full layer in eight, and what `transformers` makes of the same sizes."""
    hybrid, whole = every(8), every(1)
    names = {"solfa 7:1": lambda n: ours(n, hybrid)}
    if find_spec("transformers"):
        names |= {
            "transformers full": lambda n: theirs(n, whole),
            "transformers full, static cache": lambda n: theirs(n, whole, static=True),
            "transformers 7:1": lambda n: theirs(n, hybrid),
        }
    columns = (f"after {n:,}" for n in lengths)
    made = Table(
        "milliseconds a step (MiB of cache)", *columns, title=f"one decoding step, the fastest of {repeats} in turns"
    )
    found = [race({name: partial(make, n) for name, make in names.items()}, repeats) for n in lengths]
    for name in names:
        cells = []
        for figures in found:
            seconds, size = figures[name]
            ratio = seconds / figures["solfa 7:1"][0]
            cells.append(
                f"{1000 * seconds:.1f} ({size / 2**20:.1f})"
                + (f", solfa {ratio:.1f} x as fast" if name != "solfa 7:1" else "")
            )
        made.add_row(name, *cells)
    return made


@dataclasses.dataclass
class Writing:
    """What writing with so many drafts at one temperature gave.

    documents: the ids of each text, or the patches of each clip; seconds, counts: time and ids (patches) of each round;
    fits: bool (patch_size, n_books) of each draft of audio, which codes the model agreed to.
    """

    drafts: int
    temperature: float
    documents: list[list[Any]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    counts: list[int] = dataclasses.field(default_factory=list)
    fits: list[torch.Tensor] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> float:
        """Acceptance length: ids or patches in a round."""
        return statistics.mean(self.counts)

    @property
    def speed(self) -> float:
        """Ids or patches a second, if each round took what the fastest tenth of them took: the others waited for the machine's other work."""
        return self.length / (
            statistics.quantiles(self.seconds, n=10, method="inclusive")[0]
            if len(self.seconds) > 1
            else self.seconds[0]
        )

    def text(self, model: TextModel, prompt: torch.Tensor, steps: int, seed: int) -> Iterator[list[int]]:
        """Go on after a prompt: the ids of each round."""
        for found in generate_text(
            model, [prompt], steps=steps, drafts=self.drafts, sampling=SamplingConfig(self.temperature, 0, 1.0),
            generator=torch.Generator().manual_seed(seed),
        ):  # fmt: skip
            yield found[0].tolist()

    def audio(self, model: OmniModel, prompt: Grid, steps: int, seed: int) -> Iterator[list[list[int]]]:
        """Go on after a prompt: the patches of each round."""
        settings: dict[str, Any] = {
            "n_frames": steps * model.grid.patch_size, "sampling": SamplingConfig(self.temperature, 0, 1.0, repeat_limit=0),
            "generator": torch.Generator().manual_seed(seed),
        }  # fmt: skip
        if self.drafts:
            for codes, fits in generate_audio_with_drafts(model, prompt, drafts=self.drafts, **settings):
                self.fits += fits
                yield codes.unflatten(0, (-1, model.grid.patch_size)).flatten(1).tolist()
        else:
            for codes in generate_audio(model, prompt, **settings):
                yield [codes.flatten().tolist()]

    def timed(self, rounds: Iterator[list[Any]]) -> Iterator[None]:
        """Write a document, and pause after each round."""
        self.documents.append(next(rounds))  # that one reads the prompt
        began = time.perf_counter()
        for found in rounds:
            self.seconds.append(time.perf_counter() - began)
            self.counts.append(len(found))
            self.documents[-1] += found
            yield
            began = time.perf_counter()


def write(model: TextModel | OmniModel, prompts: list[Any], steps: int, temperatures: list[float]) -> list[Writing]:
    """Go on after each prompt with every number of drafts, round by round in turns."""
    found = [Writing(k, t) for t in temperatures for k in range(len(model.mtp) + 1)]
    for i, prompt in enumerate(prompts):
        running = [
            w.timed(
                w.text(model, prompt, steps, i) if isinstance(model, TextModel) else w.audio(model, prompt, steps, i)
            )
            for w in found
        ]
        while running:
            running = [rounds for rounds in running if next(rounds, "over") != "over"]
    return found


def write_table(found: list[Writing], audio: bool) -> Table:
    unit, whole = ("patches", "clips") if audio else ("ids", "texts")
    by_book = ["acceptance of codes, by book"] if audio else []
    columns = ("temperature", "drafts", f"{unit}/s", "speed-up", "acceptance length", *by_book, f"same {unit}")
    made = Table(*columns, title=f"writing {'audio' if audio else 'text'}, round by round in turns")
    for w in found:
        plain = next(p for p in found if p.temperature == w.temperature and p.drafts == 0)
        same = sum(a == b for a, b in zip(w.documents, plain.documents, strict=True))
        shares = torch.stack(w.fits).float().mean((0, 1)).tolist() if w.fits else []
        made.add_row(
            f"{w.temperature:g}", str(w.drafts), f"{w.speed:.1f}", f"{w.speed / plain.speed:.2f} x", f"{w.length:.2f}",
            *[" ".join(f"{share:.2f}" for share in shares) or "-" for _ in by_book],
            f"{same} of {len(w.documents)} {whole}, {sum(map(len, w.documents)):,} {unit}" if w.temperature == 0 else "-",
        )  # fmt: skip
    return made


def clips_of(folder: Path, model: OmniModel, count: int) -> list[Grid]:
    """The beginnings of clips spread over a folder of token shards, as models learn to go on from them."""
    grid = model.grid
    clips = AudioDocuments(SourceConfig(str(folder), "audio"), grid, sys.maxsize)
    frames, marks = PROMPT_PATCHES * grid.patch_size, [grid.id("<|bos|>"), grid.id("<|sostm|>")]
    long = [int(i) for i in clips.index[clips.lengths > clips.MARKS + PROMPT_PATCHES]]
    if len(long) < count:
        raise UserError(f"{folder} has {len(long)} clips of more than {frames} frames, and {count} are wanted")
    return [grid.build([marks, clips.data[i]["codes"][:, :frames]]) for i in long[:: len(long) // count][:count]]


def lines_of(path: Path, model: TextModel, count: int) -> list[torch.Tensor]:
    """The beginnings of lines spread over a text file, as bytes after `bos`."""
    try:
        lines = [line for line in path.read_bytes().splitlines() if len(line) > PROMPT]
    except OSError:
        raise UserError(f"{path} cannot be read") from None
    if len(lines) < count:
        raise UserError(f"{path} has {len(lines)} lines of more than {PROMPT} bytes, and {count} are wanted")
    if model.config.vocab_size < BYTES or model.config.bos is None:
        raise UserError("the model does not read bytes, as those of `solfa train omni` do")
    return [torch.tensor([model.config.bos, *line[:PROMPT]]) for line in lines[:: len(lines) // count][:count]]


def bench(
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint with blocks of multi-token prediction, to write with.", show_default=False),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="A text file whose lines a model of text goes on from.", show_default=False)
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Token shards whose clips a model of audio goes on from.", show_default=False)
    ] = None,
    lengths: Annotated[
        str, typer.Option(help="Steps before the measured one, with commas between.")
    ] = "1024,4096,16384,32768",
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each model, of which the fastest counts.")] = 7,
    temperatures: Annotated[str, typer.Option(help="With commas between; 0 is greedy.")] = "0,0.5,0.8,1",
    prompts: Annotated[int, typer.Option(min=1, help="Texts or clips to write.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Ids or patches of each.")] = 200,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="as torch chooses")] = None,
) -> None:
    """Print the cache's size beside full attention's, the time of a decoding step beside transformers', and, with --model and
    --text or --tokens, how much faster drafts make a model write.

    Examples:

        solfa bench decode --threads 1 --model runs/text/checkpoint --text texts/lines.txt
        solfa bench decode --threads 1 --model runs/audio/checkpoint --tokens tokens
    """
    if [text, tokens].count(None) != (2 if model is None else 1):
        raise UserError("--model goes with one of --text, for a model of text, and --tokens, for one of audio")
    if threads:
        torch.set_num_threads(threads)
    console = Console(width=max(150, Console().width))
    console.print(size_table())
    if lengths:
        console.print(step_table(numbers(lengths, int), repeats))
        if not find_spec("transformers"):
            print("left out: models of transformers: run pip install '.[codecs]'")
    if model is None:
        return
    heat = numbers(temperatures, float)
    if text is not None:
        reader = TextModel.from_pretrained(model)
        console.print(write_table(write(reader, lines_of(text, reader, prompts), steps, heat), audio=False))
    if tokens is not None:
        speaker = OmniModel.from_pretrained(model)
        console.print(write_table(write(speaker, clips_of(tokens, speaker, prompts), steps, heat), audio=True))


def numbers(words: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(word) for word in words.split(",")]
    except ValueError:
        raise UserError(f"{words!r} should be numbers with commas between") from None
