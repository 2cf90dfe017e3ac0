"""From the composed configuration to a typed `Config`; mistakes are named before anything loads.

Imports neither torch nor transformers nor lightning. Ranges of single options are checked by the
dataclasses of `gprl_lightning.config`, what takes several to see by
`config.cross_checks`; here are unknown keys.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gprl_lightning.config import Config
from gprl_lightning.config.cross_checks import cross_check
from gprl_lightning.config.run import RESUME_ALLOWED
from gprl_lightning.errors import ConfigError

SMALLEST, LARGEST = 1e-30, 1e30  # of what is not 0, by its size; inside float32
LARGEST_WHOLE = 2**53  # up to which every whole number is a float, too
FREE_FORM_SECTIONS = (
    "objective",
    "optimizer",
    "trainer",
    "callbacks",
    "logger",
    "rollout.sampler",
)
# Of these, the keys that people look for.
FREE_FORM = (
    "optimizer.lr",
    "optimizer.weight_decay",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.precision",
    "logger.wandb.mode",
    "logger.wandb.project",
)

ConfigStore.instance().store(name="schema", node=Config)


def run_folder(part: str = "path") -> str:
    """Resolve ``${run_folder:}`` in conf/: the run's folder, or the current one outside of a run.

    With ``name`` its name, with ``group`` the name of the folder around it: experiment or grid.
    """
    path = Path(
        HydraConfig.get().runtime.output_dir if HydraConfig.initialized() else "."
    ).resolve()
    return {"path": str(path), "name": path.name, "group": path.parent.name}[part]


def by_lora(full: float, adapters: float, *, _root_: DictConfig) -> float:
    """Resolve ``${by_lora:1e-6,1e-5}`` in conf/: the first for all weights, the second with
    adapters."""
    return full if _root_.policy.get("lora") is None else adapters


OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
OmegaConf.register_new_resolver("by_lora", by_lora, replace=True)


def validate(cfg: DictConfig) -> Config:
    """Check the composed configuration and return it with types.

    Raises:
        ConfigError: unknown, missing or contradictory settings; the message names the key, what was
            expected,
            what was found, and a fix.
    """
    _refuse_unknown(cfg, Config, "")
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        for key in sorted(OmegaConf.missing_keys(cfg)):
            raise ConfigError(
                f"{key} is not set: this option needs a value. Add {key}=... ."
            ) from error
        raise ConfigError(str(error)) from error
    assert isinstance(config, Config)
    _refuse_absurd_numbers(OmegaConf.to_container(cfg, resolve=True))
    _check_allowed(config.resume.allow)
    cross_check(config)
    return config


def _refuse_absurd_numbers(node: object, key: str = "") -> None:
    """No option of this program, nor of an optimiser or a trainer, means anything at NaN, Inf or a
    size that float32 cannot hold."""
    if isinstance(node, dict):
        for name, child in node.items():
            _refuse_absurd_numbers(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            _refuse_absurd_numbers(child, f"{key}[{index}]")
    elif isinstance(node, float) and node and not SMALLEST <= abs(node) <= LARGEST:
        raise ConfigError(
            f"{key}={node!r}: expected 0, or a number of a size from {SMALLEST:g} to {LARGEST:g}. "
            "Set such a value, or leave the key out."
        )
    elif isinstance(node, int) and abs(node) > LARGEST_WHOLE:
        raise ConfigError(f"{key}={node!r}: expected a whole number of a size up to 2**53.")


def _check_allowed(names: Sequence[str]) -> None:
    """``resume.allow`` may name a key, a section, or one of the contents."""
    known = [*FREE_FORM, *schema_keys(), *RESUME_ALLOWED]
    for name in names:
        free = name.startswith(tuple(f"{section}." for section in FREE_FORM_SECTIONS))
        if name not in known and not free:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"Did you mean {near[0]}?" if near else "All keys: python train.py --cfg job"
            raise ConfigError(
                "resume.allow: expected keys, sections, or "
                f"{', '.join(RESUME_ALLOWED)}; found {name!r}. {hint}"
            )


def schema_keys(schema: type = Config, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of the schema; of free-form sections (optimizer, …) only the name."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield prefix + field.name
        section = _section(hints[field.name])
        if section is not None:
            yield from schema_keys(section, f"{prefix}{field.name}.")


def did_you_mean(key: str) -> str:
    """Return a hint for a key that does not exist: the nearest name in its section, or its
    place."""
    section, _, name = key.rpartition(".")
    by_section: dict[str, list[str]] = {}
    for known in (*FREE_FORM, *schema_keys()):
        place, _, last = known.rpartition(".")
        by_section.setdefault(place, []).append(last)
    near = difflib.get_close_matches(name, by_section.pop(section, []), n=1, cutoff=0.6)
    found = [f"{section}.{near[0]}".lstrip(".")] if near else []
    for place, names in by_section.items() if not near else ():
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
        found += [f"{place}.{close[0]}".lstrip(".")] if close else []
    return f" Did you mean {' or '.join(found[:3])}?" if found else ""


def _section(hint: Any) -> type | None:
    """The dataclass behind a field's annotation (also an optional one), or None."""
    for option in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(option):
            return typing.cast(type, option)
    return None


def _refuse_unknown(cfg: DictConfig, schema: type, prefix: str) -> None:
    """``+key=`` opens a typed section of Hydra's; so every key is held against the schema again."""
    hints = typing.get_type_hints(schema)
    for key in cfg:
        name = f"{prefix}{key}"
        if key not in hints:
            raise ConfigError(f"{name}: there is no such key.{did_you_mean(name)}")
        section, node = _section(hints[str(key)]), cfg._get_node(key)
        if section is not None and isinstance(node, DictConfig) and not node._is_none():
            _refuse_unknown(node, section, f"{name}.")
