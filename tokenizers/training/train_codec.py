"""`solfa train codec`: train the audio tokenizer on corpora of audio, on a CPU or a GPU.

Stages, one after the other (`CodecRecipe.stages`):

tokens   encoder, quantizer and decoder learn to carry acoustic features through a random number of books.  No sound is made,
         so a step is cheap.  From here on codes mean what they will mean for ever.
vocoder  measured features -> waveform, under mel losses.
decoder  codes -> waveform: decoder and vocoder together, the encoder frozen; late in the run with discriminators on short crops.
waveform all codes -> waveform: the network that refines what the books for the waveform give, everything else frozen.

Those books are not trained but fitted, before their stage or else at the end, where the codes before them are new or they are missing.

The run's folder holds `state/` (to continue), `checkpoint/` (averaged weights), `samples/`, `rejects.jsonl` (clips that could
not be used), `metrics.jsonl`, `curves.png` and TensorBoard logs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from solfa.core import recipe as recipes
from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.core.training_loop import TrainingLoop
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.training.clips import ClipStore, is_heldout, list_sources
from solfa.tokenizers.training.codec_recipe import CodecRecipe
from solfa.tokenizers.training.codec_task import CodecTask
from solfa.tokenizers.training.fitting import grow
from solfa.tokenizers.training.heldout import HeldoutClip, heldout_clips

NAMED = 10  # rejected clips that are named on the screen


def make_model(recipe: CodecRecipe) -> AudioTokenizer:
    """Raises: UserError where the recipe asks for stages that the model cannot have."""
    model = grow(AudioTokenizer.own(recipe.init), recipe.grow) if recipe.init else AudioTokenizer(recipe.model)
    if recipe.stages.get("waveform") and not (model.wave and model.wave.refinement):
        raise UserError(
            "the waveform stage trains what this model lacks: set wave_books and wave_refine, in model or grow"
        )
    if recipe.init_vocoder:
        model.vocoder.load_state_dict(AudioTokenizer.own(recipe.init_vocoder).vocoder.state_dict())
    return model


def read_data(recipe: CodecRecipe, loop: TrainingLoop, c: AudioTokenizerConfig) -> tuple[ClipStore, list[HeldoutClip]]:
    """Decode the corpora into the run's folder, where that was not done yet.  -> (what is learned from, what is measured on)."""
    sources = list_sources(recipe.data)
    speakers = {s.speaker for s in sources if s.speech} - set(recipe.always_train)
    held = {s for s in speakers if is_heldout(s, recipe.heldout_percent)}
    learned = [s for s in sources if s.speaker not in held]
    if not learned:
        raise UserError(f"all {len(held)} speakers are held out: lower heldout_percent, or name some in always_train")
    with loop.accelerator.main_process_first():  # it writes the files that the others open
        clips = ClipStore.build(loop.out / "clips" / "train", learned, c.sample_rate, c.feature_hop, recipe.workers)
        unseen = [s for s in sources if s.speaker in held]
        tests, rejects = heldout_clips(loop.out / "clips" / "heldout", unseen, recipe.evaluate_clips, c)
    loop.check_data(hashlib.sha256(json.dumps([clips.digest, sorted(held)]).encode()).hexdigest())
    if loop.main:
        write_bytes(loop.out / "split.json", json.dumps({"heldout_speakers": sorted(held)}, indent=1).encode())
        list_rejects(loop, [*clips.rejects, *rejects])
    loop.print(f"{clips.hours:.2f} h of {len(clips.frames)} clips; {len(held)} of {len(speakers)} speakers held out")
    return clips, tests


def list_rejects(loop: TrainingLoop, rejects: Sequence[dict[str, str]]) -> None:
    """Write `rejects.jsonl`, and name the first on the screen."""
    path = loop.out / "rejects.jsonl"
    if not rejects:
        path.unlink(missing_ok=True)
        return
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejects).encode())
    loop.print(f"{len(rejects)} clips cannot be used and are left out, see {path}:")
    for row in rejects[:NAMED]:
        loop.print(f"  {row['reason']}")
    if len(rejects) > NAMED:
        loop.print(f"  and {len(rejects) - NAMED} more")


def run(recipe: CodecRecipe) -> Path:
    """Train, or continue a run found in `recipe.out`.  -> the folder of the averaged checkpoint.

    Raises: UserError for settings that train nothing, data that cannot be read, or a run that cannot be continued so.
    """
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    recipe.check()
    parts_at_a_time = DistributedDataParallelKwargs(find_unused_parameters=True)  # no stage trains all of the model
    patient = InitProcessGroupKwargs(timeout=timedelta(days=1))  # the others wait for one that decodes the data
    loop = TrainingLoop(recipe, recipe.precision, [parts_at_a_time, patient], default_steps=100_000)
    model = make_model(recipe)
    clips, tests = read_data(recipe, loop, model.config)
    loop.print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters")
    task = CodecTask(loop, recipe, model, clips, tests)
    try:
        return loop.run(task)
    finally:
        task.close()


def train(
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value pairs that override the recipe", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe", show_default=False)] = None,
) -> None:
    """Train or fine-tune the audio tokenizer.  Running the same command again continues where it stopped.

    Example: solfa train codec --config docs/recipes/codec-cpu.yaml data=[my_recordings] minutes=60
    """
    recipe = recipes.load(CodecRecipe, config, settings or [])
    recipe.check()
    folder = run(recipe)
    Path(recipe.out, "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
    print(f"checkpoint: {folder}")
