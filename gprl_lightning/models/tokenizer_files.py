"""A tokenizer as it was saved, beside whichever network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gprl_lightning.errors import ConfigError
from gprl_lightning.models.network_files import one_line


def load_tokenizer(key: str, path: str | Path, chat_template: str | None = None) -> Any:
    """Return the tokenizer of a folder or hub name.

    ``AutoTokenizer`` goes by the network's model type, and for some (Qwen2) then replaces the rules
    of a tokenizer that was saved as a generic one, silently: such a one is loaded as what it is.

    Args:
        key: the configuration key of the path, for messages.
        path: a folder or a hub name.
        chat_template: a Jinja file instead of its own template.

    Raises:
        ConfigError: there is none, its files are damaged, or the template is no text file.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    with one_line(f"{key}={str(path)!r}: the tokenizer"):
        saved = get_tokenizer_config(path).get("tokenizer_class")
        generic = saved in {"PreTrainedTokenizerFast", "TokenizersBackend"}
        kind = PreTrainedTokenizerFast if generic else AutoTokenizer
        tokenizer: Any = kind.from_pretrained(path, trust_remote_code=False)
    if chat_template is not None:
        section = key.partition(".")[0]
        where = f"{section}.chat_template={chat_template!r}"
        tokenizer.chat_template = _template(where, chat_template)
    return tokenizer


def _template(where: str, file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where}: expected a Jinja file in UTF-8; found: {error}. Correct the path."
        ) from error


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash vocabulary, template, and how it splits a text: merges are not in the vocabulary."""
    probe = tokenizer("The quick brown fox, 1234 jumps: über\n\tlazy dogs?").input_ids
    vocabulary = sorted(tokenizer.get_vocab().items())
    value = (vocabulary, tokenizer.chat_template, tokenizer.eos_token_id, probe)
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]
