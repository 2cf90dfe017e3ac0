"""A tokenizer as it was saved, beside whichever network."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_tokenizer(path: str | Path, chat_template: str | None = None) -> Any:
    """The tokenizer in a folder or of a hub name; `chat_template`: a Jinja file instead of its own.

    ``AutoTokenizer`` goes by the network's model type, and for some (Qwen2) then replaces the rules
    of a tokenizer that was saved as a generic one, silently: such a one is loaded as what it is.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    saved = get_tokenizer_config(path).get("tokenizer_class")
    generic = saved in {"PreTrainedTokenizerFast", "TokenizersBackend"}
    tokenizer = (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(path)
    if chat_template is not None:
        tokenizer.chat_template = Path(chat_template).read_text(encoding="utf8")
    return tokenizer
