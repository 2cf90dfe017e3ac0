"""The presets of real language models, run whole on tiny random checkpoints of their
architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.policy import save_policy
from gprl_lightning.models.pretrained_preference import load_preference_model, save_preference_model
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.composing import composed
from tests.tiny import tiny_model, tiny_policy, tiny_tokenizer
from tests.tiny_run import clean_environment, train

ON_A_CPU = ("trainer.accelerator=cpu", "trainer.devices=1", "logger=none")


def run(folder: Path, *overrides: str) -> None:
    """``python train.py`` with the overrides; its files are in ``folder``."""
    done = train(*overrides, f"hydra.run.dir={folder}", environment=clean_environment())
    assert done.returncode == 0, done.stderr[-3000:]


def published_gpm(folder: Path) -> Path:
    """A gated GPM of three axes on a tiny Llama, with no more in its config than the published
    ones have."""
    judge = from_backbone(tiny_model("llama", seed=3).model, tiny_tokenizer(), num_axes=3)
    save_preference_model(judge, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["preference_model"]
    file.write_text(json.dumps(config))
    return folder


def prompts_file(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def llama_run(tmp_path_factory) -> Path:
    """The paper's setting as it stands but for its paths and sizes."""
    folder = tmp_path_factory.mktemp("llama3_8b_ultrafeedback")
    save_policy(tiny_policy(), folder / "policy")
    run(
        folder / "run",
        "experiment=llama3_8b_ultrafeedback",
        *ON_A_CPU,
        f"policy.path={folder / 'policy'}",
        f"preference_model.path={published_gpm(folder / 'judge')}",
        f"data.path={prompts_file(folder / 'train.jsonl', [f'say {i}' for i in range(6)])}",
        f"data.held_out_path={prompts_file(folder / 'test.jsonl', ['sing', 'count'])}",
        "data.held_out=2",
        "data.prompts_per_step=2",
        "rollout.max_new_tokens=8",
        "evaluation.prompts=2",
        "iterations=2",
        "checkpoint_every=1",
    )
    return folder


def test_the_papers_setting_trains_adapters_on_bfloat16_weights(llama_run):
    adapters = load_file(llama_run / "run" / "adapter" / "adapter_model.safetensors")
    moved = [name for name, value in adapters.items() if "lora_B" in name and value.any()]
    # Adapters start with B = 0. Seven linear layers in each of the two blocks.
    assert len(moved) == 14
    config = json.loads((llama_run / "run" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 32)


def test_the_papers_setting_logs_what_it_computes(llama_run):
    columns = {k: v for k, (_, v) in read_metrics(llama_run / "run" / "metrics.csv").items()}
    assert len(columns["train/loss"]) == 2 and all(norm > 0 for norm in columns["train/grad_norm"])
    assert columns["train/kl"][0] == pytest.approx(0, abs=1e-3)  # adapters of zero: the reference
    assert sum(columns[f"axis/eigenvalue/{i}"][0] for i in range(3)) == pytest.approx(1)
    assert all(0 <= rate <= 1 for rate in columns["eval/win_rate"])
    assert len(columns["eval/win_rate"]) == 2  # before the first iteration and after the last


def test_a_run_samples_the_anchors_of_coming_iterations_with_the_first(llama_run):
    file = llama_run / "run" / "checkpoints" / "iteration_000001.ckpt"
    anchors = torch.load(file, weights_only=True)["anchors"][0]
    assert len(anchors["responses"]) == 4  # of both iterations' prompts


def test_the_papers_setting_is_what_the_paper_says():
    config = validate(composed("experiment=llama3_8b_ultrafeedback"))
    assert (config.rollout.group_size, config.rollout.max_new_tokens) == (8, 512)
    assert config.policy.dtype == "bfloat16" and config.policy.gradient_checkpointing
    assert config.trainer["precision"] == "bf16-mixed"
    assert (config.preference_model.kind, config.preference_model.num_axes) == ("gpm", 3)


def test_the_papers_setting_without_adapters_is_valid():
    validate(
        composed(
            "experiment=llama3_8b_ultrafeedback",
            "lora=none",
            "policy.dtype=float32",
            "optimizer.lr=1e-6",
        )
    )


def test_smollm2_trains_its_preference_model_on_its_first_layers(tmp_path):
    """All of the preset, on a tiny Llama: pairs, preference model on demand, policy, evaluation."""
    save_policy(tiny_policy(), tmp_path / "cache" / "smollm2_135m")
    run(
        tmp_path / "run",
        "experiment=smollm2_135m",
        *ON_A_CPU,
        f"paths.cache={tmp_path / 'cache'}",
        "preference_training.backbone_layers=1",
        "preference_training.sandbox_prompts=8",
        "preference_training.sandbox_pairs=24",
        "preference_training.held_out_pairs=8",
        "preference_training.micro_batch_size=4",
        "data.max_prompt_tokens=256",
        "data.held_out=2",
        "evaluation.prompts=2",
        "rollout.max_new_tokens=12",
        "iterations=1",
    )
    (folder,) = (tmp_path / "cache").glob("gpm_k3_*/")
    made = json.loads((folder / "config.json").read_text())
    assert made["num_hidden_layers"] == 1
    assert made["preference_model"]["base_model"] == "smollm2_135m"
    judge = load_preference_model(folder, num_axes=3)
    # Trained: the first layer of the policy, which it started from, has moved.
    before = tiny_policy().model.model.layers[0].mlp.up_proj.weight
    assert not torch.equal(judge.backbone.layers[0].mlp.up_proj.weight, before)
    assert len(judge.backbone.layers) == 1
    columns = read_metrics(tmp_path / "run" / "metrics.csv")
    assert len(columns["eval/win_rate"][1]) == 2


def test_no_more_layers_than_the_backbone_has(tmp_path):
    from gprl_lightning.tasks.fit_preference_model import new_preference_model

    save_policy(tiny_policy(), tmp_path)
    config = validate(composed("preference_training.backbone_layers=3"))
    with pytest.raises(ConfigError, match=r"backbone_layers=3: expected at most 2"):
        new_preference_model(config, [], str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["none", "grpo_bt", "gdpo"])
def test_the_arms_on_human_preferences_run(tmp_path, ablation):
    """Three iterations of each arm of the grid, on dialogues as hh-rlhf's."""
    save_policy(tiny_policy(), tmp_path / "policy")
    published_gpm(tmp_path / "gpm")
    for name in ("bradley_terry", "judge"):
        backbone = tiny_model("llama", seed=4).model
        scalar = from_backbone(backbone, tiny_tokenizer(), kind="bradley_terry", num_axes=1)
        save_preference_model(scalar, tmp_path / name)
    talk = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Say {}\n\nAssistant: {}"
    rows = [{"chosen": talk.format(i, "yes"), "rejected": talk.format(i, "no")} for i in range(20)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        tmp_path / "run",
        "grid=real_preferences",
        f"ablation={ablation}",
        "hydra.mode=RUN",
        *ON_A_CPU,
        f"policy.path={tmp_path / 'policy'}",
        f"preference_model.path={tmp_path}/${{preference_model.kind}}",
        f"evaluation.judge_path={tmp_path / 'judge'}",
        f"data.path={file}",
        "data.held_out=4",
        "evaluation.prompts=4",
        "rollout.max_new_tokens=8",
        "iterations=3",
    )
    columns = {k: v for k, (_, v) in read_metrics(tmp_path / "run" / "metrics.csv").items()}
    assert len(columns["train/loss"]) == 3 and len(columns["eval/win_rate"]) == 2
    assert ("axis/eigenvalue/2" in columns) == (ablation != "grpo_bt")
