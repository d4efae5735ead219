import dataclasses

import pytest
import torch
import torch.nn.functional as F

from solfa.core.errors import UserError
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.decoder.moe import MoEConfig
from solfa.omni.model.text_model import TextConfig, TextModel

DECODER = DecoderConfig(
    dim=32, layers=3, ffn_dim=48, full_layers=(0,), moe=MoEConfig(4, 2, 16),
    full=AttentionConfig(heads=2, kv_heads=1, qk_dim=16, v_dim=16, rotary_dim=8),
    sliding=AttentionConfig(window=8, heads=2, kv_heads=1, qk_dim=16, v_dim=16, rotary_dim=8, sink=True),
)  # fmt: skip
CONFIG = TextConfig(30, DECODER, eos=(1, 2), bos=0)


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_saved_model_is_the_same_model(tied, tmp_path):
    torch.manual_seed(0)
    model = TextModel(dataclasses.replace(CONFIG, tied=tied, embed_scale=3.0)).eval()
    model.decoder.moe_layers()[0].balance.fill_(0.123456)
    model.save_pretrained(tmp_path)
    again = TextModel.from_pretrained(tmp_path)
    ids = torch.randint(0, 30, (2, 20))
    assert again.config == model.config and not again.training
    assert torch.equal(again(ids), model(ids))
    assert ("head.weight" in model.state_dict()) != tied


def test_a_smaller_type_is_chosen_when_saving(tmp_path):
    model = TextModel(CONFIG)
    model.save_pretrained(tmp_path, torch.bfloat16)
    again = TextModel.from_pretrained(tmp_path)
    assert torch.equal(again.embed.weight, model.embed.weight.bfloat16().float())


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="kind"):
        TextModel.from_pretrained("tts-en")
    with pytest.raises(UserError, match="no checkpoint"):
        TextModel.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize("tied", [False, True])
def test_begins_near_chance_and_learns_packed_text(tied):
    """Two sequences by heart, in one row, the second of which a model with cross-talk would know from the first."""
    torch.manual_seed(0)
    model = TextModel(dataclasses.replace(CONFIG, tied=tied))
    ids = torch.randint(0, 30, (1, 48))
    segments = torch.arange(48)[None] // 24
    targets = ids.roll(-1, 1).masked_fill(segments != segments.roll(-1, 1), -100)
    targets[0, -1] = -100

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(ids, segments=segments)[0], targets[0])

    assert abs(loss().item() - torch.tensor(30.0).log().item()) < 0.3
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        for mixture in model.decoder.moe_layers():
            mixture.rebalance(1e-3)
    assert loss() < 0.3
    alone = torch.cat([model(part) for part in ids.split(24, dim=1)], dim=1)
    torch.testing.assert_close(model(ids, segments=segments), alone, atol=1e-4, rtol=1e-4)
