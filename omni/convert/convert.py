"""`solfa convert`: a text model's folder in the format of `transformers`, vLLM and SGLang <-> a solfa checkpoint.

Weights keep their values and types, bit by bit, and tokenizer files are copied; weights in blocks of float8, as MiMo-V2-Flash
is released, become bfloat16.  `solfa.omni.convert.families` has the tables of corresponding tensors and settings.
"""

import dataclasses
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from solfa.core import checkpoints, recipe
from solfa.core.atomic import ASIDE, make_folder, remove_folders
from solfa.core.errors import UserError
from solfa.omni.convert.families.gemma3 import GEMMA3
from solfa.omni.convert.families.gpt_oss import GPT_OSS
from solfa.omni.convert.families.mimo import MIMO, MIMO_MTP
from solfa.omni.model.text_model import KIND, TextConfig, TextModel

FAMILIES = {"mimo_v2_flash": MIMO, "gpt_oss": GPT_OSS, "gemma3_text": GEMMA3}
SHARD_BYTES = 4 << 30
COPIED_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
SCALE = "_scale_inv"  # after the name of a float8 weight: its scales, block by block
MTP_FILE = "model_mtp.safetensors"  # which the index may not list
IGNORED = re.compile(r"rotary_emb\.")  # tensors that need not be read: these tables are computed


def family_of(config: TextConfig) -> str:
    """The name of the only family that a configuration may fit; the family's `write` raises a UserError where it does not."""
    d = config.decoder
    if d.post_norms:
        return "gemma3_text"
    return "gpt_oss" if d.moe is not None and d.moe.score == "softmax" else "mimo_v2_flash"


class Weights:
    """The tensors of a folder by name, read one at a time from model.safetensors or the shards that an index lists.

    blocks: (rows, columns) of the blocks of float8 weights that share a scale.

    Raises: UserError for files that are missing, damaged, or no safetensors.
    """

    def __init__(self, folder: Path, blocks: tuple[int, int] = (128, 128)):
        self.folder, self.files, self.blocks = folder, {}, blocks
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if index.is_file():
            places = _read_json(index).get("weight_map")
            if not isinstance(places, dict):
                raise UserError(f"{index} has no weight_map")
        elif single.is_file():
            places = None
        else:
            raise UserError(
                f"{folder} has neither model.safetensors nor its index; other kinds of weights are not read"
            )
        extra = {MTP_FILE} if (folder / MTP_FILE).is_file() else set()
        for name in extra | ({single.name} if places is None else set(places.values())):
            try:
                self.files[name] = safe_open(folder / name, "pt")
            except (SafetensorError, OSError) as e:
                raise UserError(f"{folder / name} is missing, damaged or not a safetensors file") from e
        self.place = {key: name for name, file in self.files.items() for key in file.keys()}  # noqa: SIM118

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.place:
            raise UserError(f"{self.folder} has no tensor {key!r}, which its config.json calls for")
        value = self.files[self.place[key]].get_tensor(key)
        if key + SCALE not in self.place:
            return value
        scale = self.files[self.place[key + SCALE]].get_tensor(key + SCALE).float()
        for dim, size in enumerate(self.blocks):
            scale = scale.repeat_interleave(size, dim).narrow(dim, 0, value.shape[dim])
        return (value.float() * scale).bfloat16()


def import_model(source: Path, out: Path) -> str:
    """Read a `transformers` folder and write a solfa checkpoint.  -> a sentence for the user.

    Raises: UserError for a family, settings or tensors that are not supported.
    """
    path = source / "config.json"
    values = _read_json(path)
    name = values.get("model_type")
    if name not in FAMILIES:
        raise UserError(f"{path} is of model type {name!r}; solfa reads {', '.join(FAMILIES)}")
    packing = values.get("quantization_config") or {"quant_method": "fp8", "weight_block_size": (128, 128)}
    if packing.get("quant_method") != "fp8" or not packing.get("weight_block_size"):
        raise UserError(
            f"the weights in {source} are packed as {packing.get('quant_method')}, which is not read; "
            "store them in bfloat16 with transformers first"
        )
    family = FAMILIES[name]
    try:
        config = family.read(values)
    except KeyError as e:
        raise UserError(f"{path} has no {e.args[0]}") from None
    except (ValueError, TypeError) as e:
        raise UserError(f"{path} does not make a model: {e}") from None
    weights = Weights(source, tuple(packing["weight_block_size"]))
    if name == "mimo_v2_flash":  # not in its config.json
        config = dataclasses.replace(
            config, mtp=sum(key.startswith(MIMO_MTP) and key.endswith(".eh_proj.weight") for key in weights.place)
        )
    rules = list(family.rules(config))
    expected = {key for rule in rules for key in rule.theirs} | ({"lm_head.weight"} if config.tied else set())
    expected |= {key + SCALE for key in expected}
    unexpected = sorted(key for key in weights.place.keys() - expected if not IGNORED.search(key))
    if unexpected:
        raise UserError(
            f"{source} has {len(unexpected)} tensors that {name} does not have here, first {unexpected[0]!r}"
        )
    tensors = {rule.ours: rule.join([weights[key] for key in rule.theirs]) for rule in rules}
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in TextModel(config).state_dict().items()}
    wrong = next((key for key, value in tensors.items() if value.shape != shapes[key]), None)
    if wrong is not None:
        found = f"{tuple(tensors[wrong].shape)} instead of {tuple(shapes[wrong])}"
        raise UserError(f"the weights in {source} do not fit its config.json: {wrong!r} would be {found}")
    checkpoints.save(out, KIND, dataclasses.asdict(config), tensors, dtype=None)
    return f"{name} as a solfa checkpoint"


def export_model(source: Path, out: Path) -> str:
    """Read a solfa checkpoint and write it as the `transformers` family that it fits.  -> a sentence for the user.

    Raises: UserError for a configuration that fits no family.
    """
    config = recipe.build(TextConfig, checkpoints.read_config(source, KIND), str(source / "config.json"))
    name = family_of(config)
    family, weights = FAMILIES[name], Weights(source)
    values: dict[str, Any] = {"architectures": [family.architecture], "model_type": name, **family.write(config)}
    values["dtype"] = str(weights["embed.weight"].dtype).removeprefix("torch.")
    shards: list[dict[str, Tensor]] = [{}]
    sizes = [0]
    index: dict[str, int] = {}
    for rule in family.rules(config):
        for key, tensor in zip(rule.theirs, rule.split(weights[rule.ours]), strict=True):
            if sizes[-1] and sizes[-1] + tensor.nbytes > SHARD_BYTES:
                save_file(shards.pop(), out / f"{len(sizes)}", {"format": "pt"})
                shards.append({})
                sizes.append(0)
            # a copy: parts of one tensor share its memory, which safetensors does not save
            shards[-1][key] = tensor.clone(memory_format=torch.contiguous_format)
            sizes[-1] += tensor.nbytes
            index[key] = len(sizes)
    if config.tied:  # for readers that expect a head in the file even where it is tied
        shards[-1]["lm_head.weight"] = weights["embed.weight"]
        sizes[-1] += shards[-1]["lm_head.weight"].nbytes
        index["lm_head.weight"] = len(sizes)
    save_file(shards.pop(), out / f"{len(sizes)}", {"format": "pt"})
    names = {i: f"model-{i:05}-of-{len(sizes):05}.safetensors" for i in range(1, len(sizes) + 1)}
    if len(sizes) == 1:
        names = {1: "model.safetensors"}
    else:
        index_json = {"metadata": {"total_size": sum(sizes)}, "weight_map": {key: names[i] for key, i in index.items()}}
        (out / "model.safetensors.index.json").write_text(json.dumps(index_json, indent=2) + "\n", encoding="utf-8")
    for i, file in names.items():
        (out / f"{i}").rename(out / file)
        (out / file).chmod(0o644)  # safetensors makes files that only the owner can read
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    left_out = sorted(weights.place.keys() - {rule.ours for rule in family.rules(config)})
    notes = (
        [f"{name} has no place for {len(left_out)} tensors, which are left out, first {left_out[0]!r}"]
        if left_out
        else []
    )
    for sentence in family.warn(config) + notes:
        print(f"solfa: {sentence}", file=sys.stderr)
    return f"a solfa checkpoint as {name}"


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="a folder with config.json and safetensors")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder to make")],
) -> None:
    """Turn a text model of `transformers` (mimo_v2_flash, gpt_oss, gemma3_text) into a solfa checkpoint, or one back.

    The direction follows from config.json.  A solfa checkpoint becomes a folder that transformers, vLLM and SGLang load, if
    it fits one of these families.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; give the name of a new folder")
    values = _read_json(source / "config.json")
    convert_folder = export_model if "format_version" in values else import_model
    if convert_folder is import_model and "model_type" not in values:
        raise UserError(
            f"{source / 'config.json'} is neither of transformers (no model_type) nor of solfa (no format_version)"
        )
    new_folders = make_folder(out.parent)
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=ASIDE))
    try:
        sentence = convert_folder(source, aside)
        for name in COPIED_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, aside / name)
        aside.chmod(0o755)
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        remove_folders(new_folders)
        raise
    print(f"{out}: {sentence}, {sum(f.stat().st_size for f in out.glob('*.safetensors')) / 1e6:.1f} MB of weights")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError):
        raise UserError(f"{path} is not readable JSON") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a mapping of settings")
    return values
