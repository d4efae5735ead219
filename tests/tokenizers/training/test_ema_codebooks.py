"""The quantizer that trains: it learns, alone as ResidualVQ of vector-quantize-pytorch does, and in two processes as in one.

As a script, started by torchrun, this file is a process of the last of these tests.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from solfa.tokenizers.audio.model.quantizer import ResidualQuantizer
from solfa.tokenizers.training.bench_codebooks import library_vq
from solfa.tokenizers.training.ema_codebooks import EMAResidualVQ


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exported(codebooks: Tensor) -> ResidualQuantizer:
    """The quantizer for inference, with the greedy search."""
    fixed = ResidualQuantizer(*codebooks.shape)
    fixed.codebooks.copy_(codebooks)
    return fixed


def learned(steps: int = 60, **settings: float) -> tuple[EMAResidualVQ, Tensor]:
    """A learning quantizer after some steps on one set of vectors around 12 centres; -> (quantizer, vectors)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        centres = 2 * noise(12, 6, seed=2)
        data = centres[torch.arange(240) % 12].view(4, 60, 6) + 0.3 * noise(4, 60, 6, seed=3)
        quantizer = EMAResidualVQ(3, 16, 6, **settings).train()
        for _ in range(steps):
            quantizer(data)
    return quantizer.eval(), data


def test_each_book_improves_what_was_learned() -> None:
    quantizer, data = learned()
    partial = quantizer(data).per_book.cumsum(0)
    errors = [float((data - p).square().mean()) for p in partial]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.3 * data.var().item()
    assert errors[-1] < 0.5 * errors[0]


def test_codes_get_used_and_counted() -> None:
    quantizer, data = learned()
    fixed = exported(quantizer.codebooks)
    codes = fixed.encode(data)
    assert all(len(codes[:, k].unique()) >= 12 for k in range(3))
    torch.testing.assert_close(quantizer.counts.sum(1), torch.full((3,), 240.0), rtol=0.1, atol=0)


def test_learning_and_fixed_quantizers_search_alike() -> None:
    quantizer, data = learned(steps=5)
    fixed = exported(quantizer.codebooks)
    made = quantizer(data)
    torch.testing.assert_close(fixed.decode(fixed.encode(data)), made.per_book.sum(0))
    residual = data - made.per_book.cumsum(0)
    torch.testing.assert_close(made.commitment, residual.square().mean((1, 2, 3)).sum())


def test_kmeans_takes_fewer_vectors_than_codes_and_counts_per_step() -> None:
    quantizer, x = EMAResidualVQ(2, 16, 6), noise(5, 6)
    quantizer.kmeans_init(x, per_step=10)
    torch.testing.assert_close(quantizer.eval()(x[None]).per_book.sum(0)[0], x)
    torch.testing.assert_close(quantizer.counts.sum(1), torch.full((2,), 10.0))


def test_in_evaluation_mode_nothing_is_learned() -> None:
    quantizer, data = learned(steps=2)
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    quantizer(data + 1)
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())


def test_dead_codes_restart_at_inputs() -> None:
    quantizer, data = learned(steps=3)
    quantizer.train()
    with torch.no_grad():
        quantizer.codebooks[0, 5] = 1000.0  # nothing is near
        quantizer.counts[0, 5] = 0.0
    quantizer(data)
    nearest = (data.flatten(0, 1) - quantizer.codebooks[0, 5]).abs().amax(-1).min()
    assert nearest == 0
    assert quantizer.counts[0, 5] == pytest.approx(0.1 * 240 / 16)
    with torch.no_grad():
        quantizer.codebooks[0, 5] = 1000.0
    quantizer(data)
    assert quantizer.codebooks[0, 5].max() < 100, "still unused, so replaced again"


def test_a_code_moves_to_the_mean_of_what_it_codes() -> None:
    quantizer = EMAResidualVQ(1, 2, 1, decay=0.5, dead_below=0.0).train()
    quantizer.codebooks.copy_(torch.tensor([[[0.0], [10.0]]]))
    quantizer.counts.copy_(torch.tensor([[3.0, 1.0]]))
    quantizer.initialized.fill_(True)
    quantizer(torch.tensor([[[1.0], [2.0], [3.0], [12.0]]]))
    # Each is (old sum * decay + new sum * (1 - decay)) / (old count * decay + new count * (1 - decay)).
    torch.testing.assert_close(
        quantizer.codebooks[0, :, 0], torch.tensor([(0 * 1.5 + 6 * 0.5) / 3, (10 * 0.5 + 12 * 0.5) / 1])
    )
    torch.testing.assert_close(quantizer.counts[0], torch.tensor([3.0, 1.0]))


def test_gradient_comes_through_the_commitment_only() -> None:
    quantizer, data = learned(steps=2)
    z = data.clone().requires_grad_()
    made = quantizer(z)
    assert not made.per_book.requires_grad
    made.commitment.backward()
    assert z.grad is not None
    # Each book's input falls with z, its code stands still: the gradient is the sum of what the books left over.
    left = (data - made.per_book.cumsum(0)).sum(0)
    torch.testing.assert_close(z.grad, 2 * left / data.numel())


@pytest.fixture
def library() -> Any:
    """ResidualVQ of vector-quantize-pytorch after some steps, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        library = library_vq(4, 16, 6, decay=0.9).train()
        for seed in range(5):
            library(noise(4, 60, 6, seed=seed))
    return library


def test_codebooks_of_the_library_give_its_codes_and_reconstructions(library: Any) -> None:
    fixed, x = exported(library.codebooks.detach()), noise(3, 50, 6, seed=9)
    quantized, indices, _ = library.eval()(x)
    codes = fixed.encode(x)
    assert torch.equal(codes, indices.transpose(1, 2))
    torch.testing.assert_close(fixed.decode(codes), quantized)
    torch.testing.assert_close(fixed.decode(codes), library.get_output_from_indices(indices))


def test_a_step_is_that_of_the_library(library: Any) -> None:
    """The same codebooks, loss and gradient after each of three steps, from the same codebooks and counts."""
    own = EMAResidualVQ(4, 16, 6, decay=0.9, dead_below=0.0).train()
    own.codebooks.copy_(library.codebooks.detach())
    own.counts.copy_(torch.cat([layer._codebook.cluster_size for layer in library.layers]))
    own.initialized.fill_(True)
    for seed in range(3):
        x, y = (noise(4, 60, 6, seed=20 + seed).requires_grad_() for _ in range(2))
        made = own(x)
        quantized, _, losses = library(y)
        torch.testing.assert_close(made.per_book.sum(0), quantized.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(made.commitment, losses.sum())
        made.commitment.backward()
        losses.sum().backward()
        torch.testing.assert_close(x.grad, y.grad)
        torch.testing.assert_close(own.codebooks, library.codebooks.detach(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(own.counts, torch.cat([layer._codebook.cluster_size for layer in library.layers]))


def learn(rank: int, processes: int) -> dict[str, Tensor]:
    """What a process of several learns from its share of the data: k-means, moving averages, and a code that dies."""
    torch.set_num_threads(1)
    quantizer = EMAResidualVQ(3, 16, 6, decay=0.9).train()
    centres, share = 2 * noise(12, 6, seed=2), slice(rank * 4 // processes, (rank + 1) * 4 // processes)
    for step in range(8):
        torch.manual_seed(step + 1000 * rank)
        rows = torch.arange(240) * (step + 1) % 12  # the shares differ: the first has more of the first centres
        data = centres[rows.sort().values].view(4, 60, 6) + 0.3 * noise(4, 60, 6, seed=step)
        quantizer(data[share])
        if step == 5:
            quantizer.codebooks[0, 5] = 1000.0  # nothing is near
            quantizer.counts[0, 5] = 0.0
    return quantizer.state_dict()


def test_processes_learn_what_one_learns_from_all_the_data(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = learn(0, 1)
    assert alone["codebooks"].abs().max() < 100, "the dead code was replaced"
    for rank in range(2):
        together = load_file(tmp_path / f"{rank}.safetensors")
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, atol=1e-4, rtol=1e-4, msg=f"{name} of process {rank}")


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    save_file(learn(rank, torch.distributed.get_world_size()), Path(sys.argv[1]) / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()
