"""Templates and judges that would make every comparison a tie are refused before a rollout."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.core.batch import Message, Prompt
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.reading_checks import require_readable
from tests.tiny import TEMPLATE, chat, tiny_model, tiny_tokenizer

PROMPTS = [Prompt(0, chat("hi")), Prompt(7, chat("sing")), Prompt(8, chat("x" * 60))]
SYSTEM: Message = {"role": "system", "content": "be brief"}
YES: Message = {"role": "assistant", "content": "yes"}
TALK = (SYSTEM, *chat("hi"), YES, *chat("go on"))


def policy(template: str = TEMPLATE) -> Policy:
    return Policy(tiny_model(), tiny_tokenizer(chat_template=template))


def judge(template: str = TEMPLATE, max_tokens: int = 200, gated: bool = True):
    tokenizer = tiny_tokenizer(chat_template=template)
    backbone = tiny_model(seed=3).model
    return from_backbone(backbone, tokenizer, max_tokens=max_tokens, gated=gated).eval()


def test_sound_ones_pass():
    require_readable(policy(), judge(), [*PROMPTS, Prompt(9, TALK)])


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("", "the same text"),
        ("<bos>{% if add_generation_prompt %}assistant:{% endif %}", "the same text"),
        ("{{ messages[-1].content }}{{ messages[0].role }}:", None),
        (TEMPLATE.split("{% if add")[0], "expected add_generation_prompt"),
        # [INST] of Llama 2 and Mistral: nothing is to be written before an answer.
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% else %}"
            "[{{ m.content }}]{% endif %}"
            "{% endfor %}",
            None,
        ),
    ],
)
def test_templates_of_a_policy(template, found):
    if found is None:
        return require_readable(policy(template), judge(), PROMPTS)
    with pytest.raises(ConfigError, match=rf"policy\.chat_template: .*{found}"):
        require_readable(policy(template), judge(), PROMPTS)


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("", "two different answers"),
        ("{{ messages[0].content }}", "two different answers"),
        ("{{ messages[-1].content[:3] * 0 }}x", "two different answers"),
        ("{{ messages[-1].content }}", "the prompt in the text"),
        (
            "{% for m in messages %}"
            "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
            "{{ m.content }}{% endfor %}",
            "refuses a prompt of the roles",
        ),
        (  # as Mistral's: the system prompt is in the last user message
            "{% for m in messages[1:] %}{{ '[' }}"
            "{% if messages[loop.index + 1:] | selectattr('role', 'equalto', 'user') | list == [] "
            "and m.role == 'user' %}{{ messages[0].content }}{% endif %}"
            "{{ m.content }}{% endfor %}",
            "another beginning",
        ),
    ],
)
def test_templates_of_a_judge(template, found):
    with pytest.raises(ConfigError, match=found):
        require_readable(policy(), judge(template), [Prompt(9, TALK)])


def test_where_no_gate_reads_the_prompt_its_place_does_not_matter():
    moved = (
        "{% for m in messages[1:] %}[{% if loop.index == 3 %}{{ messages[0].content }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    require_readable(policy(), judge(moved, gated=False), [Prompt(9, TALK)])


def test_a_prompt_that_fills_the_judges_text():
    with pytest.raises(ConfigError, match=r"max_tokens=60: .*1 prompts without.*prompt 8, of"):
        require_readable(policy(), judge(max_tokens=60), PROMPTS)


def test_a_head_of_zeros():
    model = judge()
    with torch.no_grad():
        model.value_head.weight.zero_()
    with pytest.raises(ConfigError, match="different vectors for different answers"):
        require_readable(policy(), model, PROMPTS)
