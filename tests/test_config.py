"""Every option composes, ablations change what they declare, mistakes are refused by name."""

from __future__ import annotations

import pytest
import yaml
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from gprl_lightning.config.targets import check_targets
from gprl_lightning.config.validation import did_you_mean, validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.tasks.machine import settle_precision
from tests.composing import CONF, ROOT, composed, flat, options

GROUPS = sorted(d.name for d in CONF.iterdir() if d.is_dir() and d.name != "hydra")
OPTIONS = [(group, option) for group in GROUPS for option in options(group)]
TRAINING = [
    e for e in options("experiment") if "task:" not in (CONF / f"experiment/{e}.yaml").read_text()
]
ABLATIONS = [a for a in options("ablation") if a != "none"]
GRIDS = [g for g in options("grid") if g != "none"]
SEEDS = {
    "baselines": range(5),
    "baselines_smollm2": range(1),  # a night of one core
    "closed_loop": range(10),
    "detector_runs": range(20, 35),  # fresh ones: no other grid has them
    "laboratory": range(100, 120),  # registered: docs/preregistration.md
    "laboratory_map": range(100, 105),
    "laboratory_primary": range(100, 120),
    "laboratory_remedies": range(100, 105),
    "laboratory_tuning": range(5),
    "paper_table": range(5),
    "real_preferences": range(2),
}
REFERENCE = ROOT / "tests/fixtures/gpm_reference/checkpoints"

OWN = "gprl_lightning/sandbox/assets/language_model"
# An option that is not complete by itself, and what completes it.
COMPLETED = {
    ("algorithm", "grpo"): "preference_model=sandbox_bt",
    ("data", "jsonl"): "data.path=sandbox",
    ("data", "skywork"): "data.path=sandbox",
    ("data", "ultrafeedback"): "data.path=sandbox",
    ("drift", "replay"): "drift.schedule=runs/some_run/metrics.csv",
    ("experiment", "own"): f"policy.path={OWN} data.path=README.md preference_model.path={OWN}",
    ("experiment", "train_preference_model"): (
        "data.path=sandbox preference_training.backbone=sandbox"
    ),
    ("experiment", "train_real_preferences"): "data.path=sandbox",
    ("grid", "real_preferences"): "data.path=README.md",
    ("policy", "folder"): "policy.path=sandbox",
    ("policy", "llama3_8b_instruct"): "policy.path=sandbox",
    ("preference_model", "classifier"): "preference_model.path=sandbox",
    ("preference_model", "folder"): "preference_model.path=sandbox",
    ("preference_model", "folder_bt"): "preference_model.path=sandbox",
    ("preference_model", "gpm_gemma_2_2b"): "preference_model.path=sandbox",
    ("preference_model", "gpm_gemma_2b"): "preference_model.path=sandbox",
    ("preference_model", "gpm_llama3_1_8b"): "preference_model.path=sandbox",
}


@pytest.mark.parametrize("group,option", OPTIONS, ids="=".join)
def test_every_option_composes(group, option, monkeypatch):
    monkeypatch.chdir(ROOT)
    completion = COMPLETED.get((group, option))
    if completion:
        with pytest.raises(ConfigError, match=completion.split(".")[0].split("=")[0]):
            validate(composed(f"{group}={option}"))
    more = completion.split(" ") if completion else []
    cfg = composed(f"{group}={option}", *more)
    config = validate(cfg)
    settle_precision(config, cfg)
    check_targets(cfg)


def test_every_group_is_in_the_defaults_list():
    """A folder that nothing selects would be dead."""
    choices = composed(hydra=True).hydra.runtime.choices
    assert set(GROUPS) <= set(choices)


@pytest.mark.parametrize("launcher", options("hydra/launcher"))
def test_every_launcher_composes(launcher):
    assert composed(f"hydra/launcher={launcher}", hydra=True).hydra.launcher._target_


def _targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _targets(child)


def test_every_target_resolves():
    files = [f for group in GROUPS for f in (CONF / group).rglob("*.yaml")]
    targets = {t for file in files for t in _targets(yaml.safe_load(file.read_text()))}
    assert "gprl_lightning.rollout.native.NativeSampler" in targets
    extras = {t for t in targets if t.startswith("bitsandbytes.")}  # refused by name without it
    assert extras == {"bitsandbytes.optim.AdamW8bit"}
    for target in sorted(targets - extras):
        assert callable(get_object(target)), target


# Ablations


def _declared(ablation: str) -> dict:
    return flat(OmegaConf.load(CONF / f"ablation/{ablation}.yaml"))


MIRRORS = ("algorithm.advantage.", "algorithm.policy_loss.")


def test_rule_and_loss_take_the_options_of_the_algorithm():
    """So that every override and ablation of a flat key reaches them."""
    chosen = {"normalization": "global", "advantage_epsilon": 0.5, "clip_epsilon": 0.3}
    cfg = composed(*[f"algorithm.{key}={value}" for key, value in chosen.items()])
    rule, loss = instantiate(cfg.algorithm.advantage), instantiate(cfg.algorithm.policy_loss)
    assert (rule.normalization, rule.epsilon, loss.epsilon) == ("global", 0.5, 0.3)


@pytest.mark.parametrize("experiment", TRAINING)
def test_each_ablation_changes_exactly_the_keys_that_it_declares(experiment):
    base = flat(composed(f"experiment={experiment}"))
    for ablation in ABLATIONS:
        changed = flat(composed(f"experiment={experiment}", f"ablation={ablation}"))
        difference = {key: changed[key] for key in changed if changed[key] != base[key]}
        for key in [key for key in difference if key.startswith(MIRRORS)]:
            del difference[key]  # what the rule or the loss interpolates
        declared = _declared(ablation)
        assert difference == {k: v for k, v in declared.items() if base[k] != v}, ablation
        assert difference, f"{ablation} changes nothing in {experiment}"
        assert changed.keys() == base.keys()


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablations_combine_with_an_experiment_and_a_group(ablation):
    """An ablation is laid over the experiment and over groups chosen on the command line."""
    chosen = ["experiment=smollm2_135m", "drift=kl_only", f"ablation={ablation}"]
    config = flat(composed(*chosen, "rollout.group_size=4"))
    assert config["name"] == "smollm2_135m" and config["rollout.group_size"] == 4
    assert _declared(ablation).items() <= config.items()


def test_an_override_has_the_last_word():
    cfg = composed("ablation=single_axis", "preference_model.num_axes=2")
    assert cfg.preference_model.num_axes == 2


# Grids


def test_beta_and_rate_are_swept_equally_for_every_arm_of_the_study():
    arms, settings = (
        composed(f"grid={grid}", hydra=True).hydra.sweeper.params
        for grid in ("paper_table", "paper_table_settings")
    )
    assert settings["ablation"] == arms["ablation"]
    assert len(settings) == 4, "each arm meets each seed, β and rate"


@pytest.mark.parametrize("grid", GRIDS)
def test_every_job_of_every_grid_is_valid(grid):
    """A grid needs no -m, and goes over three seeds; the study's over as many as its page says.

    Each value of a key is composed with the first of the others: a grid is a product of them.
    """
    cfg = composed(f"grid={grid}", hydra=True)
    hydra = cfg.hydra
    assert hydra.mode.name == "MULTIRUN"
    shared = "laboratory" if grid.startswith("laboratory") else grid  # its parts have one folder
    assert hydra.sweep.dir == f"runs/{cfg.name}/grid_{shared}"
    params = {k: str(v).split(",") for k, v in hydra.sweeper.params.items()}
    assert params.pop("seed") == [str(seed) for seed in SEEDS.get(grid, range(3))]
    first = {k: values[0] for k, values in params.items()}
    points = [first | {k: v} for k, values in params.items() for v in values]
    jobs = {tuple(f"{k}={v}" for k, v in point.items()) for point in points}
    assert len(jobs) >= 2
    more = COMPLETED.get(("grid", grid), "").split()
    configs = [composed(f"grid={grid}", *more, *job) for job in sorted(jobs)]
    assert len(set(map(OmegaConf.to_yaml, configs))) == len(jobs), "two arms are the same run"
    if "ablation" in params and "grpo_bt_replayed" in params["ablation"]:
        assert next(iter(hydra.sweeper.params)) == "seed", "whole seeds first"
        order = params["ablation"]
        assert order.index("none") < order.index("grpo_bt_replayed"), "its β come from there"
    for config in configs:
        validate(config)


# Presets


def test_the_default_is_the_sandbox(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = validate(composed())
    assert (config.name, config.task, config.iterations) == ("sandbox", "train_policy", 60)
    assert (config.optimizer["lr"], config.algorithm.kl_coef) == (3e-4, 0.1)
    assert config.data.prompts_per_step == config.rollout.group_size == 8
    assert (config.rollout.max_new_tokens, config.evaluation.every) == (64, 20)
    assert config.logger["wandb"]["mode"] == "offline"


def test_the_paper_s_setting():
    """METHOD §2 and §4: GPM with k = 3, G 8, 512 new tokens, β 0.02, lr 1e-5 with LoRA."""
    config = validate(composed("experiment=llama3_8b_ultrafeedback"))
    assert config.policy.path == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert config.preference_model.path == "general-preference/GPM-Llama-3.1-8B-Instruct"
    assert config.preference_model.num_axes == 3
    assert (config.rollout.group_size, config.rollout.max_new_tokens) == (8, 512)
    assert (config.algorithm.kl_coef, config.optimizer["lr"]) == (0.02, 1e-5)
    assert config.policy.gradient_checkpointing and config.policy.dtype == "bfloat16"
    assert config.policy.lora is not None
    full = composed("experiment=llama3_8b_ultrafeedback", "lora=none", "policy.dtype=float32")
    assert validate(full).policy.lora is None
    adapted = composed("experiment=sandbox", "lora=adapters", "policy.lora.r=4")
    assert validate(adapted).policy.lora.r == 4


@pytest.mark.parametrize("name,lr", [("gemma_2b", 1e-5), ("llama3_1_8b", 2e-6)])
def test_the_published_training_of_a_gpm(name, lr):
    """METHOD §1: lr by size, batch 32, 2 epochs, 2,048 tokens, τ 0.1, cosine with 3 % warm-up."""
    config = validate(composed(f"experiment=train_gpm_{name}"))
    training, model = config.preference_training, config.preference_model
    assert config.task == "train_preference_model"
    assert (training.lr, training.batch_size, training.epochs) == (lr, 32, 2)
    assert (training.schedule, training.warmup_fraction) == ("cosine", 0.03)
    assert (model.max_tokens, model.tau, model.num_axes) == (2048, 0.1, 3)


# Mistakes

MISTAKES = [
    ("+rollout.grop_size=4", "no such key. Did you mean rollout.group_size"),
    ("+group_size=4", "group_size: there is no such key. Did you mean rollout.group_size"),
    ("+drift.nonsense=1", "drift.nonsense: there is no such key."),
    ("task=train", "task='train': expected one of train_policy"),
    ("rollout.group_size=1", "rollout.group_size=1: expected >= 2"),
    ("rollout.temperature=0", "rollout.temperature=0.0: expected in [0.01, 100]"),
    ("algorithm.kl_coef=-1", "algorithm.kl_coef=-1.0: expected in [0, 10000]"),
    ("algorithm.normalization=axis", "algorithm.normalization='axis': expected one of per_axis"),
    ("algorithm.minibatches=7", "algorithm.minibatches=7: expected a divisor"),
    ("algorithm.micro_batch_size=7", "Set algorithm.micro_batch_size=4"),
    ("algorithm=grpo", "preference_model.kind=gpm: expected bradley_terry"),
    ("preference_model.kind=bradley_terry", "Set preference_model.num_axes=1"),
    ("preference_model.kind=bt", "preference_model.kind='bt': expected one of gpm"),
    ("preference_model.num_axes=0", "preference_model.num_axes=0: expected >= 1"),
    (f"preference_model.path={REFERENCE}/gemma2_d4", "preference_model.num_axes=2"),
    (f"preference_model.path={REFERENCE}/llama_bt", "preference_model.kind=bradley_terry"),
    ("preference_model.path=./nowhere", "preference_model.path=./nowhere: expected an existing"),
    ("policy.path=sandbx", "Did you mean policy.path=sandbox"),
    ("policy.dtype=bf16", "policy.dtype='bf16': expected one of float32"),
    ("policy.chat_template=no.jinja", "policy.chat_template=no.jinja: expected an existing"),
    ("data.path=no.jsonl", "data.path=no.jsonl: expected an existing"),
    ("data.held_out=50", "evaluation.prompts=200: expected at most data.held_out=50"),
    ("data.held_out=0", "data.held_out=0: expected held-out prompts"),
    ("evaluation.judge=me", "evaluation.judge='me': expected one of sandbox_gold"),
    ("evaluation.batch_size=0", "evaluation.batch_size=0: expected >= 1"),
    ("drift.guard=anchored drift.anchor=false", "drift.anchor=False: expected true"),
    ("drift.schedule=metrics.csv", "drift.enabled=True: expected false with drift.schedule"),
    ("algorithm.score_shape=flat", "algorithm.score_shape='flat': expected one of linear"),
    ("algorithm.axis_std_floor=-1", "algorithm.axis_std_floor=-1.0: expected >= 0"),
    ("drift.threshold=-1", "drift.threshold=-1: expected auto, or > 0"),
    ("optimizer.lr=0", "optimizer.lr=0: expected a number > 0"),
    ("scheduler.name=cosin", "scheduler.name='cosin': expected one of constant"),
    ("+trainer.gradient_clip_val=1", "Set algorithm.max_grad_norm instead"),
    ("+trainer.max_steps=10", "Set iterations instead"),
    ("ckpt_path=no.ckpt", "ckpt_path=no.ckpt: expected an existing"),
    ("seed=-1", "seed=-1: expected in"),
    ("name=a/b", "name='a/b': expected a folder's name"),
    ("iterations=0", "iterations=0: expected >= 1"),
    ("logger.wandb.mode=on_line", "logger.wandb.mode='on_line': expected online"),
    ("logger.wandb.mode=online", "Run `wandb login`, or set logger.wandb.mode=offline"),
    ("preference_training.micro_batch_size=5", "preference_training.batch_size=32, such as 4"),
]  # fmt: skip


@pytest.mark.parametrize(
    "overrides,message", MISTAKES, ids=[m[0].rpartition("/")[2] for m in MISTAKES]
)
def test_each_mistake_is_refused_by_name(overrides, message, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError) as refused:
        validate(composed(*overrides.split(" ")))
    assert message in str(refused.value)


def test_a_login_is_found_in_netrc(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    file = tmp_path / "netrc"
    file.write_text("machine wandb.example.org login user password 0123456789\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    assert validate(composed("logger.wandb.mode=online")).logger["wandb"]["mode"] == "online"


def test_a_preference_model_s_own_k_is_accepted():
    path = f"preference_model.path={REFERENCE}/gemma2_d4"
    more = ("preference_model.num_axes=2", "sandbox_only=false")
    assert validate(composed(path, *more)).preference_model.num_axes == 2


@pytest.mark.parametrize(
    "key,meant",
    [
        ("kl_coeff", "algorithm.kl_coef"),
        ("algorithm.lr", "optimizer.lr"),
        ("iteration", "iterations"),
        ("preference_model.num_axis", "preference_model.num_axes"),
        ("quite.unknown", ""),
    ],
)
def test_did_you_mean(key, meant):
    hint = did_you_mean(key)
    assert meant in hint and bool(hint) == bool(meant)
