"""Building is stopped as soon as a model asks for more than its weights' file holds."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.core.guarded_build import limited_to, read_header, weight_files


def stacked(layers: int, width: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(stacked(3, 8).state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_the_header_has_names_shapes_and_types_and_no_values(folder: Path) -> None:
    header = read_header(folder / "model.safetensors")
    assert {name: (tuple(t.shape), t.dtype) for name, t in header.items()} == {
        f"{i}.{part}": (shape, torch.float32) for i in range(3) for part, shape in (("weight", (8, 8)), ("bias", (8,)))
    }
    assert all(t.is_meta for t in header.values())


@pytest.mark.parametrize(
    ("layers", "width", "words"),
    [
        (10**9, 8, "more than the 6 tensors"),
        (4, 8, "more than the 6 tensors"),
        (2, 8, "2 tensors differ, first '2.bias' is not of this model"),
        (3, 9, r"no tensor of shape \(9, 9\)"),
        (3, 10**6, "1,000,000,000,000 numbers at once"),
        (3, -1, "does not make a model"),
    ],
)
def test_what_the_file_does_not_hold_is_not_built(folder: Path, layers: int, width: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        checkpoints.fill(lambda: stacked(layers, width), folder)
    assert "\n" not in str(caught.value)


def test_a_model_that_fits_is_built_and_filled(folder: Path) -> None:
    model = checkpoints.fill(lambda: stacked(3, 8), folder)
    assert not model.training
    assert torch.equal(
        model.state_dict()["1.weight"], checkpoints.read_tensors(folder / "model.safetensors")["1.weight"]
    )


def test_packed_weights_are_unpacked_before_they_are_compared(folder: Path) -> None:
    packed = {
        name: (t * 100).round().to(torch.int8) if t.ndim == 2 else t for name, t in stacked(3, 8).state_dict().items()
    }
    save_file(packed, folder / "model.safetensors")
    model = checkpoints.fill(
        lambda: stacked(3, 8),
        folder,
        lambda tensors: {k: t / 100 if t.dtype == torch.int8 else t for k, t in tensors.items()},
    )
    assert torch.equal(model.state_dict()["0.weight"], packed["0.weight"].float() / 100)


class Tabled(nn.Module):
    def __init__(self, rows: int):
        super().__init__()
        self.layers = stacked(3, 8)
        for i in range(rows):
            self.register_buffer(f"table{i}", torch.zeros(1 << 22), persistent=False)


class Hollow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for _ in range(10**9):
            self.parts.append(nn.Identity())


@pytest.mark.parametrize(
    "make", [lambda: Tabled(1000), Hollow, lambda: torch.randn(1 << 40), lambda: torch.arange(1 << 40)]
)
def test_tables_and_empty_modules_are_counted_too(folder: Path, make) -> None:
    with pytest.raises(UserError, match="asks for"):
        checkpoints.fill(make, folder)


def test_only_this_thread_and_only_while_it_is_open(folder: Path) -> None:
    made: list[nn.Module] = []
    with limited_to(read_header(folder / "model.safetensors"), UserError):
        thread = threading.Thread(target=lambda: made.append(stacked(20, 9)))
        thread.start()
        thread.join()
    assert len(made) == 1
    stacked(20, 9)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../../etc/passwd"}}', "[" * 100_000]
)
def test_damaged_indices_of_shards(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="is not an index of safetensors files"):
        weight_files(tmp_path)


def test_looking_at_sizes_takes_no_time(folder: Path) -> None:
    """The `meta` device would import a library of symbols, most of a second, for some functions."""
    script = (
        "import sys; from pathlib import Path; from solfa.core import checkpoints; import torch\n"
        "class M(torch.nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(*(torch.nn.Linear(8, 8) for _ in range(3)))\n"
        "        for t in (torch.arange(3), torch.arange(1, 7, 2), torch.zeros(2, 3), torch.ones((2, 3)), torch.randn(size=(4,))):\n"
        "            self.register_buffer(f'b{t.numel()}', t, persistent=False)\n"
        f"checkpoints.fill(M, Path({str(folder)!r}))\n"
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
