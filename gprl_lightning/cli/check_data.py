"""Say what a file of prompts or pairs is read as, before a run takes it: ``check-data FILE``.

The exit code is 2 if the file cannot be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from gprl_lightning.config import DataConfig
from gprl_lightning.data.pair_formats import PairKeys
from gprl_lightning.data.preferences import survey_pairs
from gprl_lightning.data.prompts import load_prompts
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.chat_text import ChatText
from gprl_lightning.models.tokenizer_files import load_tokenizer

SHOWN = 300  # characters of a message
KEYS = {key.name: key.default for key in fields(PairKeys)}


def main(arguments: Sequence[str]) -> int:
    """Check a file. Return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        conversations = _prompts(options) if options.prompts else _pairs(options)
        if options.model:
            _lengths(conversations, options)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gprl_lightning check-data", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("file", help="JSONL, gzipped or not, parquet, or a hub data set")
    parser.add_argument("--split", default="train", help="of a hub data set; default: train")
    parser.add_argument("--prompts", action="store_true", help="prompts for a policy, not pairs")
    for name, default in KEYS.items():
        parser.add_argument(f"--{name}-key", default=default, help=f"as data.{name}_key")
    parser.add_argument("--model", help="a folder or hub name, to count tokens with")
    parser.add_argument("--max-tokens", type=int, default=2048, help="default: 2048")
    return parser


def _pairs(options: argparse.Namespace) -> list[Any]:
    keys = PairKeys(**{name: getattr(options, f"{name}_key") for name in KEYS})
    found = survey_pairs(options.file, options.split, keys)
    print("\n".join(found.notes()))
    first = found.pairs[0]
    _show("prompt", first.prompt)
    _show(f"chosen (label {first.label:g}, margin {first.margin:g})", first.chosen[-1:])
    _show("rejected", first.rejected[-1:])
    if first.attributes:
        shares = ", ".join(f"{name} {value:g}" for name, value in first.attributes.items())
        print(f"--- attributes, P(the chosen one has more): {shares}")
    return [side for pair in found.pairs for side in (pair.chosen, pair.rejected)]


def _prompts(options: argparse.Namespace) -> list[Any]:
    data = DataConfig(
        path=options.file, split=options.split, prompt_key=options.prompt_key, held_out=0
    )
    prompts, _ = load_prompts(data)
    print(f"{len(prompts)} prompts")
    _show("prompt", prompts[0].messages)
    return [prompt.messages for prompt in prompts]


def _show(name: str, messages: Sequence[Any]) -> None:
    print(f"--- {name}")
    for message in messages:
        print(f"{message['role']}: {message['content'][:SHOWN]}")


def _lengths(conversations: list[Any], options: argparse.Namespace) -> None:
    text = ChatText(load_tokenizer("--model", options.model), options.max_tokens, "chat")
    text(conversations)
    share = text.cut / max(text.read, 1)
    print(
        f"--- longer than {options.max_tokens} tokens of {options.model}: {text.cut} of "
        f"{text.read} texts ({share:.1%})"
    )
