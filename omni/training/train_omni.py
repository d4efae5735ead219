"""`solfa train omni`: train the decoder on packed rows of text, audio tokens, or both.

`omni_recipe.py` holds the settings, `omni_task.py` what a step does, `solfa/core/training_loop.py` the loop around it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed
import typer

from solfa.core import recipe as recipes
from solfa.core.errors import UserError
from solfa.core.training_loop import TrainingLoop
from solfa.omni.training.flops import peak_flops
from solfa.omni.training.omni_recipe import OmniRecipe
from solfa.omni.training.omni_task import OmniTask


def make_task(recipe: OmniRecipe) -> OmniTask:
    """The task and its loop, ready to run.  Raises: UserError for settings that do not fit each other or the saved run."""
    recipe.check()
    return OmniTask(TrainingLoop(recipe), recipe)


def run(task: OmniTask) -> Path:
    """Train to the end.  -> the folder of the checkpoint."""
    dtype = torch.bfloat16 if task.recipe.precision == "bf16" else torch.float32
    peak, origin = peak_flops(task.device, dtype)
    task.peak_flops = peak * task.processes
    task.loop.print(
        f"{sum(p.numel() for p in task.parameters) / 1e6:.1f}M parameters; rows {task.data.filled():.0%} full of "
        f"{' + '.join(f'{len(s.lengths):,}' for s in task.data.sources)} documents; peak {peak / 1e9:,.0f} GFLOPS ({origin})"
    )
    if left_out := sum(s.too_long for s in task.data.sources):
        task.loop.print(f"{left_out:,} clips are longer than a row of {task.recipe.row_steps} steps and are left out")
    return task.loop.run(task)


def train(
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value pairs that override the recipe", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe", show_default=False)] = None,
) -> None:
    """Train the decoder on text, audio tokens, or both.  Running the same command again continues where it stopped.

    Several processes shard the model: torchrun --nproc-per-node 8 -m solfa train omni ...

    Example: solfa train omni --config docs/recipes/omni-cpu.yaml minutes=5
    """
    try:
        recipe = recipes.load(OmniRecipe, config, settings or [])
    except ValueError as e:  # what the model's own settings complain about
        raise UserError(str(e)) from None
    task = make_task(recipe)
    folder = run(task)
    if task.loop.main:
        Path(recipe.out, "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
        print(f"checkpoint: {folder}")
    if task.processes > 1:
        torch.distributed.destroy_process_group()
