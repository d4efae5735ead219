"""Random models of `transformers`, saved, to be converted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

MIMO = {
    "vocab_size": 60, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 7, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 24, "v_head_dim": 16, "sliding_window": 16, "n_routed_experts": 8,
    "num_experts_per_tok": 3, "moe_intermediate_size": 20, "eos_token_id": [3, 5],
}  # fmt: skip
GPT_OSS = {
    "vocab_size": 60, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "num_local_experts": 6, "num_experts_per_tok": 2,
}  # fmt: skip
GEMMA3 = {
    "vocab_size": 60, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 20,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mimo": ("MiMoV2FlashForCausalLM", "MiMoV2FlashConfig", MIMO),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", GPT_OSS),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA3),
}


@pytest.fixture(scope="session")
def save_hf_model() -> Callable[..., torch.nn.Module]:
    """(folder, family, changes, half=False, **save) -> a random model of theirs, saved in the folder.

    Every parameter matters, and sinks and balances are large enough to be missed.
    """
    hf = pytest.importorskip("transformers", reason="transformers is not installed")
    if not hasattr(hf, "MiMoV2FlashConfig"):
        pytest.skip(f"transformers {hf.__version__} has no mimo_v2_flash")

    def build(
        folder: Path, family: str, changes: dict[str, Any] | None = None, half: bool = False, **save: Any
    ) -> torch.nn.Module:
        torch.manual_seed(0)
        architecture, config_class, base = FAMILIES[family]
        config = getattr(hf, config_class)(**base | (changes or {}))
        config._attn_implementation = "eager"
        model = getattr(hf, architecture)(config).eval()
        balances = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(std=0.5 if p.dim() == 1 else p.shape[-1] ** -0.5)
            for b in balances:
                b.normal_(std=0.2)
            model.get_input_embeddings().weight.normal_(std=1.0 if not config.tie_word_embeddings else 0.3)
        if half:
            model.bfloat16()
            for name, b in model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    b.data = b.float()
        model.save_pretrained(folder, **save)
        return model

    return build


@pytest.fixture(scope="session")
def small_hf_folder(save_hf_model: Callable[..., torch.nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of theirs in bfloat16 and in shards, with tokenizer files."""
    folder = tmp_path_factory.mktemp("small") / "theirs"
    save_hf_model(folder, "mimo", {"num_hidden_layers": 2}, half=True, max_shard_size="30KB")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "modeling_other.py").write_text("raise SystemExit")
    return folder


@pytest.fixture(scope="session")
def read_tensors() -> Callable[[Path], dict[str, torch.Tensor]]:
    """(folder) -> all tensors in its safetensors files."""
    return lambda folder: {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.fixture(scope="session")
def same_tensors() -> Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], bool]:
    """Whether two sets of tensors have the same names, types and bits."""

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return one.keys() == other.keys() and all(
            v.dtype == other[k].dtype and torch.equal(v, other[k]) for k, v in one.items()
        )

    return same
