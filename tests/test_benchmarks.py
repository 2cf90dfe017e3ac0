"""The benchmarks run: what needs a GPU at a toy size, what needs TRL without it."""

from __future__ import annotations

import json

import pytest
import torch

from tests.benchmarks import bench_gpu, bench_scale, real_preferences, scale_estimate
from tests.benchmarks.setups import Shape, llama_config, stop_probability


def test_the_gpu_benchmark_runs_at_a_toy_size(tmp_path, capsys):
    bench_gpu.main(["--toy", "--without-trl", "--cache", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "toy on" in shown and "tokens/s" in shown and "MFU" in shown


def test_weights_of_llama_3_8b_are_eight_billion():
    """8.03 billion in all, less the embedding of 128,256 × 4,096."""
    assert bench_gpu.weights(bench_gpu.LLAMA_3_8B) == pytest.approx(8.03e9 - 0.525e9, rel=1e-3)
    config = llama_config(Shape(64, 2, 512, mlp=128))
    with torch.device("meta"):
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM(config)
    norms = 64 * (2 * 2 + 1)
    assert bench_gpu.weights(bench_gpu.TOY.shape) + norms == sum(
        p.numel() for p in model.parameters()
    )


def test_update_flops_by_hand():
    """One prompt of 10, G = 2, 4 new tokens: 18 tokens, which look at 50 + 2·4·12 = 146 others."""
    setup = bench_gpu.Setup("hand", Shape(8, 3, 16, mlp=16, heads=2, kv_heads=1), 1, 2, 10, 4)
    matrices = 3 * (2 * 8 * 4 * 3 + 3 * 8 * 16) + 16 * 8
    assert bench_gpu.weights(setup.shape) == matrices
    attention = 3 * 4 * 3 * 8 * 146
    assert bench_gpu.update_flops(setup, lora=False) == 6 * matrices * 18 + attention
    assert bench_gpu.update_flops(setup, lora=True) == 4 * matrices * 18 + attention


def test_stop_probability_gives_the_mean_length():
    p = stop_probability(0.3, 64)
    mean = sum(min(n, 64) * p * (1 - p) ** (n - 1) for n in range(1, 5000))
    assert mean == pytest.approx(0.3 * 64, rel=1e-4)


@pytest.mark.parametrize(
    ("strategy", "processes", "expected"),
    # A network of 12 bytes, a judge of 6: DDP sends 2(n − 1)/n · 12 from each, FSDP 3 + 3 of them.
    [("ddp", 1, 0), ("ddp", 2, 24), ("ddp", 4, 72), ("fsdp2", 2, 78), ("fsdp2", 4, 234)],
)
def test_bytes_of_collectives_by_hand(strategy, processes, expected):
    assert bench_scale.theory(strategy, processes, 12.0, 6.0) == pytest.approx(expected)


def test_the_estimate_of_a_cluster_by_hand():
    """1e9 weights in full: 3 copies of 2 bytes, and 16 of the optimiser: 22 GB over 8 cards."""
    size = scale_estimate.Size("1B", 1e9, 10, 100)
    found = scale_estimate.estimate(size, 8, "fsdp2")
    assert found.held == pytest.approx(22e9 / 8)
    tokens = 8 * (256 + 8 * 512)
    assert found.reading == pytest.approx(6e9 * tokens / (0.45 * 989e12))
    assert found.update == pytest.approx(8e9 * tokens / (0.45 * 989e12))
    # 8 micro-batches gather twice and reduce once, four more gatherings read: 7/8 of 40 + 32 GB.
    assert found.communication == pytest.approx(7 / 8 * (20 * 2e9 + 8 * 4e9) / 450e9)
    keys = 64 * 2 * 2 * 10 * 100 * (256 / 8 + 256)
    assert found.rollout == pytest.approx(512 * (2e9 + keys) / (0.6 * 3.35e12))
    across = scale_estimate.estimate(size, 16, "fsdp2")
    assert across.communication == pytest.approx(15 / 16 * (20 * 2e9 + 8 * 4e9) / 50e9)
    assert "does not fit" in scale_estimate.table()


def test_heads_on_frozen_states_find_what_the_states_hold(tmp_path, capsys, monkeypatch):
    """Half of the prompts like `yes`, the others `no`: the table has a row of each shape."""
    wants = ("yes", "no")
    rows = [
        {"prompt": f"{'ab'[i % 2]} {i}", "chosen": wants[i % 2], "rejected": wants[1 - i % 2]}
        for i in range(120)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(real_preferences, "EPOCHS", 3)
    monkeypatch.setattr(real_preferences, "SHAPES", [
        real_preferences.Shape(0), real_preferences.Shape(3, True, "answer_only")
    ])  # fmt: skip
    command = [str(file), "--backbone", "sandbox", "--layers", "2", "--cache", str(tmp_path)]
    real_preferences.main(command)
    first = capsys.readouterr().out
    assert "120 pairs, 2 layers of sandbox, 5 folds" in first
    assert "| Bradley-Terry |" in first and "| GPM k = 3, gated, answer only |" in first
    real_preferences.main(command)  # with the states of the first call
    again = capsys.readouterr().out
    assert "states of" in first and "states of" not in again
    table = [line for line in first.splitlines() if line.startswith("|")]
    assert table == [line for line in again.splitlines() if line.startswith("|")]
