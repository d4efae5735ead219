"""`solfa bench decode`: what sliding layers and drafts save in decoding, in bytes and in time.

Three tables: bytes of the cache beside full attention's; the time of one decoding step after so many, beside models of
`transformers` of the same size with their own caches; and generating text with and without multi-token prediction.  What is
compared runs in turns, so that other load on the machine affects all of it alike.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table

from solfa.core.errors import UserError
from solfa.omni.decoder.cache import cache_bytes, cache_parts
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.generation.sampling import SamplingConfig
from solfa.omni.generation.speculative import generate_text
from solfa.omni.model.text_model import TextConfig, TextModel
from solfa.omni.training.packing import BYTES

VOCAB, WINDOW = 8192, 128
_HEADS: dict[str, Any] = {"heads": 4, "kv_heads": 2, "qk_dim": 64, "v_dim": 64, "rotary_dim": 64}
SIZES = (4096, 32_768, 131_072, 1_048_576)  # steps of context
LONGEST = 1 << 20  # steps of context that a step is timed after
PROMPT = 24  # bytes of a line that a model continues


def benched_config(ratio: int) -> DecoderConfig:
    """The decoder that is measured: the last layer of each `ratio` has full attention; 1 is all of them."""
    layers = 18 if ratio == 6 else 16
    return DecoderConfig(
        dim=256, layers=layers, ffn_dim=768, full_layers=tuple(range(ratio - 1, layers, ratio)),
        full=AttentionConfig(rotary_base=640_000.0, **_HEADS), sliding=AttentionConfig(window=WINDOW, sink=True, **_HEADS),
    )  # fmt: skip


class Stepper(NamedTuple):
    """A model with a filled cache: `step` decodes one more step, `nbytes` is the size of the cache."""

    step: Callable[[], object]
    nbytes: Callable[[], int]


def solfa_stepper(steps: int, decoder: DecoderConfig) -> Stepper:
    """A `TextModel` of random weights after `steps` steps of random keys and values."""
    torch.manual_seed(0)
    model = TextModel(TextConfig(VOCAB, decoder)).eval()
    cache = model.decoder.new_cache()
    chunk = cache.advance(1, steps, None)
    for i, layer in enumerate(cache.layers):
        a = decoder.attention_of(i)
        layer.append(torch.randn(1, a.kv_heads, steps, a.qk_dim), torch.randn(1, a.kv_heads, steps, a.v_dim), chunk)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    return Stepper(lambda: model(ids, cache=cache), lambda: cache.nbytes)


def transformers_stepper(steps: int, decoder: DecoderConfig, static: bool = False) -> Stepper:
    """A model of the same sizes in `transformers` (Qwen 2, which has both layer types), after `steps` steps.

    static: with its StaticCache instead of its DynamicCache.
    """
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
    length = steps

    def step() -> object:
        nonlocal length
        position = torch.tensor([length])
        length += 1
        return model(ids, past_key_values=cache, use_cache=True, cache_position=position, position_ids=position[None])

    layers: list[Any] = list(cache.layers)
    return Stepper(step, lambda: sum(t.nbytes for layer in layers for t in (layer.keys, layer.values)))


@torch.no_grad()
def time_steps(builders: dict[str, Callable[[], Stepper]], repeats: int) -> dict[str, tuple[float, int]]:
    """The fastest of `repeats` steps of each model, in turns.  -> (seconds, bytes of the cache) by name."""
    steppers = {name: build() for name, build in builders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for lap in range(repeats + 2):
        for name, stepper in steppers.items():
            start = time.perf_counter()
            stepper.step()
            if lap > 1:  # the first two warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: (min(seconds[name]), stepper.nbytes()) for name, stepper in steppers.items()}


def size_table() -> Table:
    """Bytes of the cache per step of context, reserved slots included, beside full attention's without any."""
    title = f"bytes per step of context, of full attention's; float32, window {WINDOW}"
    table = Table("cache", *(f"{n:,} steps" for n in SIZES), title=title)
    for name, ratio in (("5:1", 6), ("7:1", 8)):
        config = benched_config(ratio)
        full = config.layers * cache_parts(config)[1] // len(config.full_layers)
        cells = []
        for n in SIZES:
            hybrid = cache_bytes(config, n) / n
            cells.append(f"{hybrid:,.0f} of {full:,} (1/{full / hybrid:.1f})")
        table.add_row(f"{name}, {config.layers} layers", *cells)
    return table


def step_table(lengths: list[int], repeats: int) -> Table:
    """Time of one decoding step after so many: one full layer in eight, beside `transformers` at the same sizes."""
    hybrid, full = benched_config(8), benched_config(1)
    builders: dict[str, Callable[[int], Stepper]] = {"solfa 7:1": lambda n: solfa_stepper(n, hybrid)}
    if find_spec("transformers"):
        builders |= {
            "transformers full": lambda n: transformers_stepper(n, full),
            "transformers full, static cache": lambda n: transformers_stepper(n, full, static=True),
            "transformers 7:1": lambda n: transformers_stepper(n, hybrid),
        }
    columns = (f"after {n:,}" for n in lengths)
    title = f"one decoding step, the fastest of {repeats} in turns"
    table = Table("milliseconds a step (MiB of cache)", *columns, title=title)
    measured = [time_steps({name: partial(build, n) for name, build in builders.items()}, repeats) for n in lengths]
    for name in builders:
        cells = []
        for figures in measured:
            seconds, size = figures[name]
            ratio = seconds / figures["solfa 7:1"][0]
            faster = "" if name == "solfa 7:1" else f", solfa {ratio:.1f} x as fast"
            cells.append(f"{1000 * seconds:.1f} ({size / 2**20:.1f}){faster}")
        table.add_row(name, *cells)
    return table


@dataclass
class DraftRun:
    """Generation with so many drafts at one temperature.

    texts: the ids of each text; seconds, counts: time and ids of each round.
    """

    drafts: int
    temperature: float
    texts: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def acceptance_length(self) -> float:
        """Mean number of ids in a round."""
        return statistics.mean(self.counts)

    @property
    def speed(self) -> float:
        """Ids a second, at the first decile of the rounds' times: slower rounds waited for other load on the machine."""
        fastest = statistics.quantiles(self.seconds, n=10, method="inclusive")[0] if len(self.seconds) > 1 else None
        return self.acceptance_length / (fastest or self.seconds[0])

    def generate(self, model: TextModel, prompt: torch.Tensor, steps: int, seed: int) -> Iterator[None]:
        """Continue a prompt (T,), and pause after each round."""
        rounds = generate_text(
            model, [prompt], steps=steps, drafts=self.drafts, sampling=SamplingConfig(self.temperature, 0, 1.0),
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        self.texts.append(next(rounds)[0].tolist())  # the round of the prefill, which is not timed
        start = time.perf_counter()
        for (ids,) in rounds:
            self.seconds.append(time.perf_counter() - start)
            self.counts.append(len(ids))
            self.texts[-1] += ids.tolist()
            yield
            start = time.perf_counter()


def run_drafts(model: TextModel, prompts: list[torch.Tensor], steps: int, temperatures: list[float]) -> list[DraftRun]:
    """Continue each prompt with every number of drafts, round by round in turns."""
    runs = [DraftRun(k, t) for t in temperatures for k in range(len(model.mtp) + 1)]
    for i, prompt in enumerate(prompts):
        active = [run.generate(model, prompt, steps, i) for run in runs]
        while active:
            active = [rounds for rounds in active if next(rounds, "over") != "over"]
    return runs


def draft_table(runs: list[DraftRun]) -> Table:
    """A row per run: speed, acceptance length, and at temperature 0 whether the ids are those without drafts."""
    columns = ("temperature", "drafts", "ids/s", "speed-up", "acceptance length", "same ids")
    table = Table(*columns, title="generating text, round by round in turns")
    for run in runs:
        plain = next(r for r in runs if r.temperature == run.temperature and r.drafts == 0)
        same = sum(a == b for a, b in zip(run.texts, plain.texts, strict=True))
        greedy = f"{same} of {len(run.texts)} texts, {sum(map(len, run.texts)):,} ids"
        table.add_row(
            f"{run.temperature:g}", str(run.drafts), f"{run.speed:.1f}", f"{run.speed / plain.speed:.2f} x",
            f"{run.acceptance_length:.2f}", greedy if run.temperature == 0 else "-",
        )  # fmt: skip
    return table


def read_prompts(path: Path, model: TextModel, count: int) -> list[torch.Tensor]:
    """The beginnings of `count` lines spread over a text file: int64 (1 + PROMPT,), bytes after `bos`.

    Raises: UserError for a file that cannot be read or has too few lines, and for a model that does not take bytes.
    """
    try:
        lines = [line for line in path.read_bytes().splitlines() if len(line) > PROMPT]
    except OSError:
        raise UserError(f"{path} cannot be read") from None
    if len(lines) < count:
        raise UserError(f"{path} has {len(lines)} lines of more than {PROMPT} bytes, and {count} are wanted")
    if model.config.vocab_size < BYTES or model.config.bos is None:
        raise UserError("the model does not take bytes as ids, as those of `solfa train omni` do")
    return [torch.tensor([model.config.bos, *line[:PROMPT]]) for line in lines[:: len(lines) // count][:count]]


def parse_numbers(words: str, option: str, kind: type[int] | type[float], least: float, most: float) -> list[Any]:
    """`1,2` -> [1, 2].  Raises: UserError, which names the option, for anything else or a value out of range."""
    try:
        values = [kind(word) for word in words.split(",")]
    except ValueError:
        raise UserError(f"{option} {words!r} should be numbers with commas between") from None
    for value in values:
        if not (math.isfinite(value) and least <= value <= most):
            raise UserError(f"{option} {value} should lie in {least:g}..{most:,}")
    return values


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            help="A text checkpoint with blocks of multi-token prediction to generate with.", show_default=False
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="A text file whose lines the model continues.", show_default=False)
    ] = None,
    lengths: Annotated[
        str, typer.Option(help="Steps before the measured one, with commas between; '' leaves this table out.")
    ] = "1024,4096,16384,32768",
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each model, of which the fastest counts.")] = 7,
    temperatures: Annotated[str, typer.Option(help="With commas between; 0 is greedy.")] = "0,0.5,0.8,1",
    prompts: Annotated[int, typer.Option(min=1, help="Lines to continue.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Ids of each.")] = 200,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads.", show_default="as torch chooses")
    ] = None,
) -> None:
    """Print the cache's size beside full attention's, the time of a decoding step beside transformers', and, with --model
    and --text, how much faster drafts make text generation.

    Example: solfa bench decode --threads 1 --model runs/text/checkpoint --text texts/lines.txt
    """
    if (text is None) != (model is None):
        raise UserError("--model and --text go together: a checkpoint, and the lines that it continues")
    counts = parse_numbers(lengths, "--lengths", int, 1, LONGEST) if lengths else []
    heats = parse_numbers(temperatures, "--temperatures", float, 0, 100)
    runs_on = None
    if model is not None and text is not None:
        text_model = TextModel.from_pretrained(model)
        runs_on = text_model, read_prompts(text, text_model, prompts)
    if threads:
        torch.set_num_threads(threads)
    console = Console(width=max(150, Console().width))
    console.print(size_table())
    if counts:
        console.print(step_table(counts, repeats))
        if not find_spec("transformers"):
            print("left out: models of transformers: run pip install '.[codecs]'")
    if runs_on is not None:
        console.print(draft_table(run_drafts(*runs_on, steps, heats)))
