"""`preference_model.values=answer_only`: values that do not see the prompt, a gate that does."""

from __future__ import annotations

import json

import pytest
import torch

from gprl_lightning.core.batch import Message, Messages
from gprl_lightning.data.pair_loader import collate_pairs
from gprl_lightning.data.preferences import make_pair
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.chat_text import ChatText
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.multi_head import MultiHead
from gprl_lightning.models.pretrained_preference import load_preference_model, save_preference_model
from tests.models.test_shared_prompt import KNOWN, model_of
from tests.tiny import chat, tiny_tokenizer

SYSTEM: Message = {"role": "system", "content": "be brief"}
HELLO: Message = {"role": "assistant", "content": "hello"}
PROMPTS: list[Messages] = [
    chat("hi"),
    chat("how are you, my friend?"),
    (SYSTEM, *chat("x" * 30)),
    (*chat("hi"), HELLO, *chat("go on")),
]
RESPONSES = [["yes", "no no no", "", "a"], ["<eos>", "x" * 40, "b", "hi"], ["q", "q", "r", "t"],
             ["yes", "no", "a", "b"]]  # fmt: skip
# Some templates refuse a conversation that the assistant begins.
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ m.role + ':' + m.content + '<end>' }}{% endfor %}"
)


def judge_of(arch: str = "llama", values: str | None = "answer_only", **options):
    tokenizer = tiny_tokenizer(
        **({"chat_template": t} if (t := options.pop("template", None)) else {})
    )
    judge = from_backbone(model_of(arch).base_model, tokenizer, values=values, **options).eval()
    torch.nn.init.normal_(judge.prompt_head.weight, generator=torch.Generator().manual_seed(1))
    return judge


def ids_of(judge, *messages: Message) -> list[int]:
    """The tokens of messages by the tokenizer itself, and not by the model's own code."""
    text = judge.tokenizer.apply_chat_template(list(messages), tokenize=False)
    return judge.tokenizer(text, add_special_tokens=True)["input_ids"]


@torch.no_grad()
def state(judge, ids: list[int]) -> torch.Tensor:
    return judge.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]


@pytest.mark.parametrize("arch", [*KNOWN, "gemma2"])
@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_values_are_the_answers_and_the_gate_is_the_prompts(arch, batch_size):
    """Each answer behind an empty user turn, each whole prompt: forward passes of one row."""
    judge = judge_of(arch, batch_size=batch_size)
    found = judge.embed(PROMPTS, RESPONSES)
    empty: Message = {"role": "user", "content": ""}
    for g, (prompt, group) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        gate = torch.softmax(judge.prompt_head.weight @ state(judge, ids_of(judge, *prompt)), -1)
        torch.testing.assert_close(found.eigenvalues[g], gate, atol=1e-5, rtol=1e-5)
        for i, answer in enumerate(group):
            if "<" in answer:
                continue  # spelt special tokens are letters here, and not to the tokenizer
            ids = ids_of(judge, empty, {"role": "assistant", "content": answer})
            ids[-1] = judge.tokenizer.eos_token_id
            v = judge.value_head.weight @ state(judge, ids)
            expected = (v / v.norm()).view(-1, 2)
            torch.testing.assert_close(found.vectors[g, i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", KNOWN)
def test_as_the_plain_path(arch):
    judge = judge_of(arch, batch_size=5)
    assert judge.shares_prompts
    found = judge.embed(PROMPTS, RESPONSES)
    judge.shares_prompts = False
    expected = judge.embed(PROMPTS, RESPONSES)
    torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.eigenvalues, expected.eigenvalues, atol=1e-5, rtol=1e-5)


def test_the_option_acts_and_the_gate_stays():
    """The same answer has one vector whatever was asked; plain values have another each time."""
    blind, plain = judge_of(), judge_of(values=None)
    prompts, responses = PROMPTS[:2], [["yes", "no"]] * 2
    without, within = blind.embed(prompts, responses), plain.embed(prompts, responses)
    torch.testing.assert_close(without.vectors[0], without.vectors[1], atol=1e-6, rtol=1e-5)
    assert (within.vectors[0] - within.vectors[1]).abs().max() > 0.05
    # With one turn both gates read the same tokens; of several turns the plain one reads the first.
    torch.testing.assert_close(without.eigenvalues, within.eigenvalues, atol=1e-5, rtol=1e-5)
    longer = [PROMPTS[0], PROMPTS[3]]
    seen = blind.embed(longer, responses).eigenvalues
    assert (seen[0] - seen[1]).abs().max() > 0.01
    first = plain.embed(longer, responses).eigenvalues
    torch.testing.assert_close(first[0], first[1], atol=1e-5, rtol=1e-5)


def test_each_prompt_is_run_once_for_its_group():
    judge = judge_of(batch_size=32)
    seen: list[int] = []
    judge.backbone.embed_tokens.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].numel())
    )
    judge.embed(PROMPTS, RESPONSES)
    texts = judge.text([(*p, {"role": "assistant", "content": r}) for p, group in
                        zip(PROMPTS, RESPONSES, strict=True) for r in group])  # fmt: skip
    head = texts[0].prompt_tokens - 1
    assert all(t.prompt_tokens - 1 == head for t in texts)
    answers = sum(len(t.ids) - head for t in texts)
    assert sum(seen) == head + answers + sum(map(len, {t.gate for t in texts}))


@pytest.mark.parametrize("values", ["conversation", "answer_only"])
def test_the_states_are_what_the_heads_read(values):
    judge = judge_of(values=values, batch_size=3)
    conversations = [(*p, {"role": "assistant", "content": r}) for p, group in
                     zip(PROMPTS, RESPONSES, strict=True) for r in group]  # fmt: skip
    last, prompt = judge.states_of_conversations(conversations)
    vectors, eigenvalues = judge.embed_conversations(conversations)
    v = torch.nn.functional.normalize(last @ judge.value_head.weight.T, dim=-1)
    torch.testing.assert_close(v, vectors, atol=1e-6, rtol=1e-5)
    gate = torch.softmax(prompt @ judge.prompt_head.weight.T, -1)
    torch.testing.assert_close(gate, eigenvalues, atol=1e-6, rtol=1e-5)


def test_a_batch_of_pairs_trains_both_parts():
    """Both sides of a pair have one gate; gradients come through the prompt and the answer."""
    judge = judge_of(batch_size=8).train()
    pairs = [make_pair(p, "yes", "no no") for p in PROMPTS]
    batch = collate_pairs(pairs, judge.text)
    assert batch.texts.prompt_tokens.shape == (8,) and len(batch.texts.mask) == 12
    vectors, eigenvalues = judge(batch.texts)
    assert torch.equal(eigenvalues[0::2], eigenvalues[1::2])
    found = judge.embed([pair.prompt for pair in pairs], [pair.answers for pair in pairs])
    torch.testing.assert_close(
        vectors.detach().view(4, 2, 3, 2), found.vectors, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(eigenvalues[::2].detach(), found.eigenvalues, atol=1e-5, rtol=1e-5)
    for part in (vectors[:, 0].sum(), eigenvalues[:, 0].sum()):
        (grad,) = torch.autograd.grad(part, judge.backbone.embed_tokens.weight, retain_graph=True)
        assert grad.abs().max() > 0


def test_it_is_saved_with_the_model_and_part_of_its_identity(tmp_path):
    judge = judge_of()
    save_preference_model(judge, tmp_path)
    assert (
        json.loads((tmp_path / "config.json").read_text())["preference_model"]["values"]
        == "answer_only"
    )
    again = load_preference_model(tmp_path)
    first, second = (m.embed(PROMPTS, RESPONSES) for m in (judge, again))
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.eigenvalues, second.eigenvalues)
    other = load_preference_model(tmp_path, values="conversation")
    assert other.text.values == "conversation"
    assert judge.identity() == again.identity() != other.identity()


def test_a_template_that_wants_a_user_first_takes_it():
    judge = judge_of(template=STRICT)
    assert judge.embed(PROMPTS[:2], RESPONSES[:2]).vectors.isfinite().all()


def test_long_prompts_leave_the_answer_its_room():
    judge = judge_of(max_tokens=30)
    found = judge.embed([chat("y" * 60)], [["yes", "no"]])
    assert (found.vectors[0, 0] - found.vectors[0, 1]).abs().max() > 0.01
    assert (judge.text.read, judge.text.cut) == (2, 0)
    same = judge.embed([chat("y" * 60 + "z")], [["yes", "no"]])  # its gate reads what is kept
    torch.testing.assert_close(found.eigenvalues, same.eigenvalues, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"gated": False}, {"num_axes": 1}, {"kind": "bradley_terry", "num_axes": 1}]
)
def test_a_model_whose_gate_says_nothing_is_refused(options):
    with pytest.raises(ConfigError, match=r"values=answer_only: expected a gate on two axes"):
        from_backbone(
            model_of("llama").base_model, tiny_tokenizer(), values="answer_only", **options
        )


def test_so_are_labels_as_axes():
    text = ChatText(tiny_tokenizer(), values="answer_only")
    with pytest.raises(ConfigError, match=r"values=answer_only: expected a gate"):
        MultiHead(
            model_of("llama").base_model, torch.nn.Linear(32, 3, bias=False), text, ("a", "b", "c")
        )
