"""Fuzzed files of a policy and fuzzed chat templates; the law and the counts are `fuzz`'s."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from gprl_lightning.config import PolicyConfig
from gprl_lightning.core.batch import Prompt
from gprl_lightning.models.policy import Policy, load_policy, save_policy
from gprl_lightning.models.reading_checks import require_readable
from gprl_lightning.rollout.plain_decoding import require_decodable
from tests.tiny import chat, tiny_model, tiny_policy, tiny_tokenizer

Lawful = Callable[[str, Callable[[], Any]], Any]
SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
FILES = (*SETTINGS, "model.safetensors", "chat_template.jinja")
PROMPTS = [Prompt(0, chat("hi")), Prompt(1, ({"role": "system", "content": "be"}, *chat("go on")))]

pieces = st.sampled_from(
    ["{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m.role }}", "{{ m.contnt }}",
     "{{ messages[0].content }}", "{{ messages[-1]['content'] | trim }}", "{% if loop.last %}",
     "{% if add_generation_prompt %}", "{% endif %}", "{% else %}", "assistant:", "<end>", "<bos>",
     "{{ bos_token }}", "{{ x }}", "{{ 1 / 0 }}", "{{ messages | length }}", "{{ messages }}",
     "{{ messages | map(attribute='content') | join }}", "{% set n = namespace(a=0) %}",
     "{{ raise_exception('no') }}", "{{ strftime_now('%Y') }}",
     "{{ ''.__class__.__mro__ }}", "{% include 'x' %}", "{{ range(99999999) | list | length }}",
     "{{ messages.append(1) }}", "{{ m.update({}) }}", "{{ self }}", "\0", "ü", "{%", "}}"]
)  # fmt: skip
templates = st.one_of(
    st.lists(pieces, max_size=8).map("".join),
    st.lists(pieces, max_size=4).map(
        lambda p: (
            "{% for m in messages %}" + "".join(p[:2]) + "{{ m.content }}<end>{% endfor %}"
            "{% if add_generation_prompt %}" + "".join(p[2:]) + "assistant:{% endif %}"
        )
    ),
    st.text(max_size=30),
)


def template(lawful: Lawful, text: str) -> None:
    """Read prompts through a template, as policy and judge do before a run."""

    def act() -> Any:
        policy = Policy(NETWORK, tiny_tokenizer(chat_template=text))
        require_readable(policy, None, PROMPTS)
        return policy

    policy = lawful("template", act)
    if policy is not None:
        first, second = (policy.chat.text(p.messages, True) for p in PROMPTS)
        assert first.strip() and second.strip()
        assert first == policy.chat.text(PROMPTS[0].messages, True)


NETWORK = tiny_model()


def sound_policy(folder: Path) -> Path:
    """A policy's folder, to be changed."""
    save_policy(tiny_policy(), folder)
    return folder


def model(lawful: Lawful, original: Path, change: tuple[str, str, float, Any]) -> None:
    """Change one file of a policy, and load it as a run does."""
    name, kind, where, value = change
    folder = original.parent / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    file = folder / name
    if kind == "cut":
        file.write_bytes(file.read_bytes()[: int(where * file.stat().st_size)])
    elif kind == "remove":
        file.unlink()
    elif kind == "flip" or name not in SETTINGS:
        content = bytearray(file.read_bytes())
        content[int(where * (len(content) - 1))] ^= 1 + len(str(value)) % 255
        file.write_bytes(content)
    else:
        file.write_text(json.dumps(_changed(json.loads(file.read_text()), where, value)))
    before = {f.name: f.read_bytes() for f in folder.iterdir()}

    def act() -> Any:
        policy = load_policy(PolicyConfig(path=str(folder)), folder, 1.0)
        require_decodable(policy)
        require_readable(policy, None, PROMPTS)
        return policy

    policy = lawful("model", act)
    if policy is not None:
        assert all(p.isfinite().all() for p in policy.parameters())
        assert all(isinstance(end, int) for end in policy.eos_ids)
        with torch.no_grad():
            assert policy.causal_lm(input_ids=torch.tensor([[4, 5, 6]])).logits.isfinite().all()
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def _changed(tree: dict, where: float, value: Any) -> dict:
    """`tree` with one of its values, at whatever depth, replaced."""
    keys = list(tree)
    key = keys[int(where * len(keys)) % len(keys)]
    rest = where * len(keys) % 1
    inner = tree[key]
    deeper = isinstance(inner, dict) and inner and rest > 0.2
    return {**tree, key: _changed(inner, rest, value) if deeper else value}
