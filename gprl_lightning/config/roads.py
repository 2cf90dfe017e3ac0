"""Which roads lead where: the sandbox's settings are for the sandbox, one's own take `own`.

The sandbox's learning rate (3e-4), 64 new tokens and β of 0.1 suit its model of 1M parameters. On a
real policy they end in babble that its own reward calls a win; so they are refused there.
"""

from __future__ import annotations

from pathlib import Path

from gprl_lightning.config.judging import judge_specs
from gprl_lightning.config.run import Config
from gprl_lightning.errors import ConfigError

BUILTIN_MODELS = ("sandbox", "smollm2_135m")

GIVEN_AXES = "gprl_lightning.sandbox.given_axes."  # functions, by their dotted names

# What conf/ has in the places of one's own files.
PLACEHOLDERS = {
    "policy.path": "./my_policy",
    "data.path": "./my_prompts.jsonl",
    "preference_model.path": "./my_preference_model",
    "preference_training.backbone": "./my_backbone",
}


def check_given(config: Config) -> None:
    """Raise ConfigError with all of one's own parts that are still to be named."""
    keys = []
    for key, placeholder in PLACEHOLDERS.items():
        section, _, name = key.partition(".")
        if getattr(getattr(config, section), name) == placeholder:
            keys += [] if Path(placeholder).exists() else [key]
    if keys:
        reward = "preference_model.path" in keys
        hint = " A reward of another kind: preference_model=..." if reward else ""
        raise ConfigError(
            f"{', '.join(keys)}: expected a path of your own; found none. Add "
            f"{' '.join(f'{key}=...' for key in keys)} .{hint}"
        )


def check_roads(config: Config) -> None:
    """Check that policy, prompts, reward and judge belong together.

    Raises:
        ConfigError: something of one's own under the sandbox's settings; or a reward or judge that
            knows the sandbox's requests alone, with another policy or other prompts.
    """
    if config.task not in ("train_policy", "best_of_n"):
        return
    if config.sandbox_only:
        _require_sandbox(config)
    _check_reward(config)
    golds = [s.key for s in judge_specs(config.evaluation).values() if s.kind == "sandbox_gold"]
    if golds and config.data.path != "sandbox":
        raise ConfigError(
            f"{golds[0]}=sandbox_gold: expected data.path=sandbox, because it knows the "
            f"sandbox's requests alone; found data.path={config.data.path}. Set "
            "evaluation.judge=model, endpoint, preference_model or none, or data=sandbox."
        )


def check_sandbox(config: Config) -> None:
    """Check that what goes with one gold of the sandbox is not asked of the other.

    Raises:
        ConfigError: the contextual gold with votes; λ by task without it; or the gold's own axes
            for other data.
    """
    contextual, votes = config.sandbox.gold == "contextual", config.preference_training.cyclic_votes
    if contextual and votes:
        raise ConfigError(
            f"preference_training.cyclic_votes={votes}: expected 0 with sandbox.gold=contextual, "
            "which adds up utilities and has no votes. Set sandbox.gold=vote, or leave "
            "preference_training.cyclic_votes out."
        )
    model = config.preference_model
    given = any(name.startswith(GIVEN_AXES) for name in model.functions)
    columns = [weight for weight in model.weights or () if isinstance(weight, str)]
    if given and columns and not contextual:
        raise ConfigError(
            f"sandbox.gold={config.sandbox.gold}: expected contextual, because "
            f"preference_model.weights names {columns[0]}, which it alone puts beside a request. "
            "Leave sandbox.gold out, or set preference_model/weights=blind."
        )
    if given and config.data.path != "sandbox":
        raise ConfigError(
            f"data.path={config.data.path}: expected sandbox with preference_model.functions of "
            f"{GIVEN_AXES[:-1]}, because they know the sandbox's requests alone. "
            "Set data=sandbox, or name functions of your own."
        )


def _require_sandbox(config: Config) -> None:
    foreign = {
        "policy.path": config.policy.path not in BUILTIN_MODELS,
        "data.path": config.data.path != "sandbox",
        "preference_model.path": config.preference_model.path not in BUILTIN_MODELS,
    }
    for key, is_foreign in foreign.items():
        if is_foreign:
            section = key.partition(".")[0]
            raise ConfigError(
                f"{key}={getattr(config, section).path}: expected sandbox, because this experiment "
                f"has the sandbox's learning rate ({config.optimizer.get('lr')}), "
                f"rollout.max_new_tokens={config.rollout.max_new_tokens} and "
                f"algorithm.kl_coef={config.algorithm.kl_coef}, which ruin any other policy. "
                f"Type instead:\n  {own_command(config)}\n"
                "or set sandbox_only=false to keep these settings."
            )


def _check_reward(config: Config) -> None:
    """A built-in preference model is trained on the policy's answers to the sandbox's requests."""
    model, policy, data = config.preference_model, config.policy.path, config.data.path
    if model.source or model.path not in BUILTIN_MODELS or model.kind == "gold":
        return
    for key, value, fits in (
        ("policy.path", policy, policy in BUILTIN_MODELS),
        ("data.path", data, data == "sandbox"),
    ):
        if not fits:
            raise ConfigError(
                f"preference_model.path={model.path}: expected a reward of your own, because this "
                "one would be trained now, on gold labels of the sandbox's short requests; found "
                f"{key}={value}. Type instead:\n  {own_command(config)}"
            )


def own_command(config: Config) -> str:
    """Return the command line that trains with the same parts on the road for one's own."""
    policy, data, reward = config.policy.path, config.data.path, config.preference_model
    own = reward.path not in BUILTIN_MODELS
    group = "folder_bt" if own and reward.kind == "bradley_terry" else "folder"
    words = [
        "python train.py experiment=own",
        f"policy.path={policy}",
        f"data.path={'prompts.jsonl' if data == 'sandbox' else data}",
    ]
    if reward.functions:
        functions = ",".join(reward.functions)
        words.append(f"preference_model=functions 'preference_model.functions=[{functions}]'")
    else:
        path = reward.path if own else "my/preference_model"
        words.append(f"preference_model={group} preference_model.path={path}")
    return " ".join(words)
