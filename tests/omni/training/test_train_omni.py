"""Runs of `solfa train omni` of a few steps: they learn, resume bit for bit, and two processes compute what one does."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from solfa.cli import run as solfa
from solfa.core.errors import UserError
from solfa.core.metrics_log import read_metrics
from solfa.core.training import cosine_rate, wsd_rate
from solfa.omni.model.omni_model import OmniModel
from solfa.omni.model.patches import LocalConfig
from solfa.omni.model.text_model import TextModel
from solfa.omni.training.omni_recipe import OmniRecipe
from solfa.omni.training.omni_task import OmniTask
from solfa.omni.training.packing import SourceConfig
from solfa.omni.training.train_omni import make_task, run
from solfa.tokenizers.datasets.shards.shard_formats import Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter


def state_of(trainer: OmniTask) -> dict[str, torch.Tensor]:
    names: dict[torch.Tensor, str] = {p: n for n, p in trainer.model.named_parameters()}
    moments = {f"{names[p]}.{k}": v for p, state in trainer.optimizer.state.items() for k, v in state.items()}
    return {**trainer.model.state_dict(), **moments}


def steps(trainer: OmniTask, count: int) -> list[float]:
    trainer.model.train()
    return [trainer.loop.train_step(trainer).metrics["loss"] for _ in range(count)]


def to_yaml(recipe: OmniRecipe, path: Path) -> Path:
    settings = json.loads(json.dumps(dataclasses.asdict(recipe)))
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_the_command_learns_logs_and_writes_a_checkpoint(omni_recipe, tmp_path, capsys):
    words = ["train", "omni", "--config", str(to_yaml(omni_recipe, tmp_path / "recipe.yaml")), "evaluate_every=20"]
    assert solfa([*words, "precision=bf16", "steps=40", "log_every=5"]) == 0
    out = Path(omni_recipe.out)
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(5, 45, 5))
    assert rows[0]["loss"] > 4 and rows[-1]["loss"] < 1.5 and rows[-1]["heldout/loss"] < 1.5
    assert {"norm", "tokens_per_second", "mfu", "logit/1", "activation/0", "load entropy/0"} <= rows[-1].keys()
    assert (out / "curves.png").stat().st_size > 10_000 and list((out / "logs").iterdir())
    said = capsys.readouterr()
    assert "M parameters; rows 9" in said.out and "GFLOPS" in said.out and "heldout/loss" in said.err
    model = TextModel.from_pretrained(out / "checkpoint")
    ids = torch.tensor([model.config.bos, *b"four five six seven eight nine ten"])
    assert F.cross_entropy(model(ids[None])[0, :-1], ids[1:]) < 1.8


def test_resuming_gives_the_same_bits(omni_recipe, tmp_path):
    undisturbed = make_task(omni_recipe)
    whole = steps(undisturbed, 12)
    killed = make_task(dataclasses.replace(omni_recipe, out=str(tmp_path / "killed")))
    begun = steps(killed, 6)
    killed.loop.save(killed)
    steps(killed, 2)  # lost: the process dies before it saves
    resumed = make_task(killed.recipe)
    assert resumed.loop.restore(resumed)
    assert begun + steps(resumed, 6) == whole
    expected, found = state_of(undisturbed), state_of(resumed)
    assert expected.keys() == found.keys() and all(torch.equal(expected[k], found[k]) for k in expected)
    assert resumed.guard.state() == undisturbed.guard.state()


def test_running_the_command_again_continues(omni_recipe):
    recipe = dataclasses.replace(omni_recipe, steps=12, save_every=4)
    run(make_task(recipe))
    again = make_task(dataclasses.replace(recipe, steps=16))
    run(again)
    assert again.loop.step == 16
    assert [row["step"] for row in read_metrics(Path(recipe.out) / "metrics.jsonl")] == list(range(1, 17))


def test_a_run_is_not_continued_with_other_settings_or_data(omni_recipe, numbers_text, tmp_path):
    text = tmp_path / "mine.txt"
    shutil.copy(numbers_text, text)
    recipe = dataclasses.replace(omni_recipe, steps=2, data={"numbers": SourceConfig(str(text))})
    run(make_task(recipe))
    with pytest.raises(
        UserError, match="begun with decoder.ffn_dim=64, not 48: continue it with that, or give another"
    ):
        make_task(dataclasses.replace(recipe, decoder=dataclasses.replace(recipe.decoder, ffn_dim=48)))
    text.write_text("one two three\n" * 600)
    with pytest.raises(UserError, match="the data have changed since the run in"):
        make_task(recipe)


def test_steps_beside_minutes_end_the_run(omni_recipe):
    task = make_task(dataclasses.replace(omni_recipe, steps=3, minutes=60.0))
    run(task)
    assert task.loop.step == 3


def test_passes_and_checkpointing_change_nothing(omni_recipe):
    gradients = []
    for changes in ({"rows_at_once": 4}, {"rows_at_once": 1}, {"rows_at_once": 2, "checkpointing": True}):
        trainer = make_task(dataclasses.replace(omni_recipe, **changes))
        loss = trainer.losses(trainer.batch(0), backward=True)["loss"]
        gradients.append([torch.tensor(loss), *(p.grad for p in trainer.parameters)])
        load = sum(int(m.load.sum()) for m in trainer.decoder.moe_layers())
        assert load == sum(trainer.batch(0).lengths()), "counted once, although computed twice"
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, atol=2e-6, rtol=1e-4)


def test_weights_stay_float32_under_bf16(omni_recipe):
    trainer = make_task(dataclasses.replace(omni_recipe, precision="bf16"))
    dtypes = set()
    trainer.decoder.layers[0].attention.qkv.register_forward_hook(lambda _, __, y: dtypes.add(y.dtype))
    losses = steps(trainer, 2)
    assert dtypes == {torch.bfloat16} and np.isfinite(losses).all()
    assert {p.dtype for p in trainer.parameters} == {torch.float32}
    assert {v.dtype for s in trainer.optimizer.state.values() for v in s.values()} == {torch.float32}


@pytest.fixture
def mixed_recipe(omni_recipe: OmniRecipe, tmp_path: Path) -> OmniRecipe:
    """Text, and clips with what they say, in one model."""
    folder = tmp_path / "tokens"
    with ShardWriter(folder, Header("tiny", "f", 24_000, 25.0, 2, 16)) as writer:
        for i in range(120):
            codes = np.random.default_rng(i).integers(0, 16, (2, 12 + i % 9))
            row = {
                "id": str(i),
                "audio": "",
                "codes": codes,
                "frames": codes.shape[1],
                "text": "one two three"[: 3 + i % 11],
            }
            writer.add({**row, "duration": 1.0, "samples": 24_000, "sample_rate": 24_000})
        writer.flush()
    local = LocalConfig(dim=16, layers=1, heads=2, ffn_dim=32)
    data = omni_recipe.data | {k: SourceConfig(str(folder), k) for k in ("audio", "speak", "transcribe")}
    return dataclasses.replace(
        omni_recipe, data=data, books=2, codebook_size=16, patch_size=2, patch_encoder=local, patch_decoder=local,
        book_weights=(2.0, 1.0), rows_at_once=1,
    )  # fmt: skip


WORKER = """
import json, sys
from solfa.core import recipe
from solfa.omni.training.omni_recipe import OmniRecipe
from solfa.omni.training.train_omni import make_task

for path, steps in zip(sys.argv[1::2], sys.argv[2::2]):
    trainer = make_task(recipe.load(OmniRecipe, path, []))
    trainer.model.train()
    rows = []
    for step in range(int(steps)):
        rows.append(trainer.loop.train_step(trainer).metrics)
        if step == 9:
            trainer.loop.save(trainer)
    if trainer.loop.restore(trainer):
        rows.append(trainer.loop.train_step(trainer).metrics)
    if trainer.loop.main:
        print(json.dumps(rows), flush=True)
"""


def test_two_processes_compute_what_one_does(omni_recipe, mixed_recipe, tmp_path):
    """Sharded by FSDP2: text, audio, blocks of multi-token prediction and heads that are clipped; and one process goes on from what two have saved.

    With experts for a few steps only, after which rounding sends some step to another expert.
    """
    stability = dataclasses.replace(mixed_recipe.stability, qk_clip=2.0)
    experts = dataclasses.replace(mixed_recipe, stability=stability, learning_rate=3e-3, checkpointing=True)
    dense = dataclasses.replace(experts, decoder=dataclasses.replace(experts.decoder, moe=None))
    text = dataclasses.replace(omni_recipe, decoder=dense.decoder, mtp=1, tied=True)
    ahead = dataclasses.replace(experts, mtp=2)
    few = [(dataclasses.replace(r, out=f"{r.out}-{name}"), 5) for name, r in (("experts", ahead), ("text", text))]
    runs = [(dense, 12), *few]
    (tmp_path / "worker.py").write_text(WORKER)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        str(tmp_path / "worker.py"),
    ]
    for i, (recipe, count) in enumerate(runs):
        command += [str(to_yaml(recipe, tmp_path / f"{i}.yaml")), str(count)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = [json.loads(line) for line in done.stdout.splitlines()]
    for (recipe, count), rows in zip(runs, together, strict=True):
        alone = make_task(dataclasses.replace(recipe, out=recipe.out + "-alone"))
        alone.model.train()
        for step in range(count):
            expected = alone.loop.train_step(alone).metrics
            assert rows[step].keys() == expected.keys() and rows[step].get("event") == expected.get("event"), (
                f"step {step}"
            )
            for name in expected.keys() - {"event"}:
                assert rows[step][name] == pytest.approx(expected[name], abs=1e-5, rel=0 if name == "loss" else 1e-3), (
                    step,
                    name,
                )
    assert any("clipped" in row.get("event", "") for row in together[0])
    assert together[0][12] == together[0][10], "the sharded state comes back"

    resumed = make_task(dense)
    assert resumed.loop.restore(resumed) and resumed.loop.step == 10
    assert steps(resumed, 2) == pytest.approx([row["loss"] for row in together[0][10:12]], abs=1e-5)


def test_audio_and_text_are_learned_together(mixed_recipe):
    trainer = make_task(dataclasses.replace(mixed_recipe, rows_at_once=4))
    trainer.model.train()
    first = trainer.loop.train_step(trainer).metrics
    for _ in range(30):
        last = trainer.loop.train_step(trainer).metrics
    assert last["text"] < 0.6 * first["text"] and last["book 0"] < first["book 0"]
    weights = trainer.objective.weights.tolist()
    assert weights == pytest.approx([1.0, 2 / 3, 1 / 3])
    assert last["loss"] == pytest.approx(last["text"] + (2 * last["book 0"] + last["book 1"]) / 3)


def test_the_loss_of_blocks_is_the_same_in_any_number_of_passes(mixed_recipe):
    found = []
    for rows in (4, 1):
        trainer = make_task(dataclasses.replace(mixed_recipe, mtp=2, rows_at_once=rows))
        trainer.model.train()
        losses = trainer.losses(trainer.batch(0), backward=True)
        assert losses["loss"] == pytest.approx(
            losses["text"] + (2 * losses["book 0"] + losses["book 1"]) / 3 + 0.15 * (losses["mtp 1"] + losses["mtp 2"]),
            rel=1e-5,
        )
        found.append([*map(torch.tensor, losses.values()), *(p.grad for p in trainer.parameters)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=2e-6, rtol=1e-4)


def test_blocks_of_audio_start_from_the_one_of_a_checkpoint(mixed_recipe, tmp_path):
    one = make_task(dataclasses.replace(mixed_recipe, mtp=1))
    one.loop.save(one)
    three = make_task(
        dataclasses.replace(mixed_recipe, mtp=3, init=f"{mixed_recipe.out}/checkpoint", out=str(tmp_path / "three"))
    )
    three.loop.save(three)
    model = OmniModel.from_pretrained(tmp_path / "three" / "checkpoint")
    assert len(model.mtp) == 3
    for block in model.mtp:
        for name, value in one.model.mtp[0].state_dict().items():
            assert torch.equal(block.state_dict()[name], value.bfloat16().float()), name


def test_a_run_starts_from_a_checkpoint(omni_recipe, tmp_path):
    first = make_task(dataclasses.replace(omni_recipe, steps=20, learning_rate=2e-2))
    folder = run(first)
    again = make_task(dataclasses.replace(omni_recipe, init=str(folder), out=str(tmp_path / "again")))
    assert again.evaluate()["heldout/loss"] == pytest.approx(first.evaluate()["heldout/loss"], abs=0.02)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["schedule=linear"], "schedule should be cosine or wsd"),
        (["precision=fp8"], "precision should be bf16 or no"),
        (["rows=3", "rows_at_once=2"], "rows=3 is no multiple of"),
        (["decoder.full_layers=[7]"], "full_layers .* are not all within"),
        (["stability.patients=3"], "unknown setting 'patients'"),
        (["data.numbers.weight=0"], "must be above 0"),
    ],
)
def test_mistakes_are_one_sentence(omni_recipe, tmp_path, capsys, words, complaint):
    assert solfa(["train", "omni", "--config", str(to_yaml(omni_recipe, tmp_path / "recipe.yaml")), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(complaint, error)


def test_schedules():
    for rate in (cosine_rate, wsd_rate):
        values = [rate(i / 100) for i in range(101)]
        assert (
            max(values) == 1.0
            and values[0] == 0.01
            and all(a >= b for a, b in zip(values[2:], values[3:], strict=False))
        )
    assert [wsd_rate(p, 0.1, 0.5) for p in (0.05, 0.1, 0.3, 0.5, 0.625, 1.0)] == pytest.approx([0.5, 1, 1, 1, 0.5, 0])
    assert wsd_rate(1.0, decay=0.2, floor=0.1) == pytest.approx(0.1)
    assert wsd_rate(1.0, decay=0.0) == 1.0
