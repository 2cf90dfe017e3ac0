"""Against what the authors' code computes, and the invariances that make a score mean one thing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gprl_lightning
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.chat_text import ChatText
from gprl_lightning.models.initialization import from_backbone, spread_angles
from gprl_lightning.models.preference_model import PreferenceModel
from tests.tiny import chat, tiny_model, tiny_tokenizer

REFERENCE = Path(__file__).parents[1] / "fixtures" / "gpm_reference"
GOLDEN = json.loads((REFERENCE / "golden.json").read_text())["cases"]
GPMS = ["llama_d6_gate", "gemma2_d4"]
CHATS = [(case, i) for case in GOLDEN for i in range(3)]


def reference(case: str, **overrides) -> PreferenceModel:
    return gprl_lightning.load_preference_model(REFERENCE / "checkpoints" / case, **overrides)


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, torch.tensor(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("case", "index"), CHATS)
def test_published_layout_agrees_with_the_authors_code(case, index):
    expected = GOLDEN[case]["chat"][index]
    samples = expected["samples"]
    found = reference(case).compare(tuple(samples[0][:1]), [s[1]["content"] for s in samples])
    close(found.score, expected["score_matrix"])
    if case == "llama_bt":
        close(found.vectors[:, 0], expected["reward"])
        reward = torch.tensor(expected["reward"])
        close(found.win_probability, torch.sigmoid(reward[:, None] - reward).tolist())
        return
    close(found.vectors, expected["embedding_l2"])
    close(found.win_probability, expected["prob_tau0.1"])
    if case == "llama_d6_gate":
        close(found.eigenvalues, expected["gate_softmax"][0])
    else:
        assert found.eigenvalues.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("case", "index"), CHATS)
def test_texts_become_the_tokens_of_the_authors_code(case, index):
    expected = GOLDEN[case]["chat"][index]
    rows = reference(case).text([tuple(sample) for sample in expected["samples"]])
    for row, ids, mask in zip(rows, expected["input_ids"], expected["attention_mask"], strict=True):
        assert list(row.ids) == [token for token, real in zip(ids, mask, strict=True) if real]


@pytest.mark.parametrize("case", GPMS)
@pytest.mark.parametrize("index", range(3))
def test_raw_embedding_and_gate_logits(case, index):
    expected, model = GOLDEN[case]["chat"][index], reference(case, l2_normalize=False)
    samples = expected["samples"]
    found = model.compare(tuple(samples[0][:1]), [s[1]["content"] for s in samples])
    close(found.vectors, expected["embedding_raw"])
    torch.testing.assert_close(
        found.score, torch.tensor(expected["score_matrix_no_l2"]), rtol=1e-5, atol=1e-4
    )
    batch = model.text.collate(model.text([tuple(sample) for sample in samples]))
    prompt = model.hidden_states(batch)[1]
    close(prompt, expected["prompt_hidden_state"])
    if model.prompt_head is not None:
        close(model.prompt_head(prompt), expected["gate_logits"])


@pytest.mark.parametrize("case", GPMS)
def test_multi_turn_conversation(case):
    expected, model = GOLDEN[case]["multi_turn"], reference(case)
    batch = model.text.collate(model.text([tuple(expected["sample"])]))
    close(model(batch)[0], expected["embedding_l2"])
    close(model.hidden_states(batch)[1], expected["prompt_hidden_state"])


@pytest.mark.parametrize("case", GOLDEN)
def test_right_padded_rows_of_ids(case):
    expected, model = GOLDEN[case]["right_padded"], reference(case)
    batch = replace(
        model.text.collate(model.text([chat("a")])),
        input_ids=torch.tensor(expected["input_ids"]),
        mask=torch.tensor(expected["attention_mask"]).bool(),
        prompt_tokens=torch.ones(3, dtype=torch.long),
        gate_texts=torch.arange(3),
    )
    vectors = model(batch)[0]
    close(vectors[:, 0] if case == "llama_bt" else vectors, expected["reward"])


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("padding", [1, 200])
def test_padding_changes_nothing(case, left, padding):
    model = reference(case)
    batch = model.text.collate(model.text([conversation("Name a colour", "Blue, like the sea")]))
    side = (padding, 0) if left else (0, padding)
    pad = torch.nn.functional.pad
    padded = replace(
        batch,
        input_ids=pad(batch.input_ids, side, value=model.text.pad_id),
        mask=pad(batch.mask, side, value=False),
    )
    with torch.no_grad():
        for alone, beside in zip(model(batch), model(padded), strict=True):
            torch.testing.assert_close(alone, beside, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", GOLDEN)
def test_other_rows_of_the_batch_change_nothing(case):
    prompts = [chat("Name a colour"), chat("Describe a lighthouse in one short sentence.")]
    responses = [["Blue", "A very long answer " * 5, "Red"], ["Tall.", "It blinks.", "White"]]
    together = reference(case, batch_size=32).embed(prompts, responses)
    model = reference(case, batch_size=2)
    for g, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
        for i, response in enumerate(group):
            alone = model.embed([prompt], [[response]])
            torch.testing.assert_close(
                alone.vectors[0, 0], together.vectors[g, i], rtol=0, atol=1e-5
            )
            torch.testing.assert_close(
                alone.eigenvalues[0], together.eigenvalues[g], rtol=0, atol=1e-5
            )
    torch.testing.assert_close(
        model.embed(prompts, responses).vectors, together.vectors, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("case", GOLDEN)
def test_skew_symmetry_is_exact(case):
    found = reference(case).compare("Name a colour", ["Blue", "Red", "Green is nice"])
    assert torch.equal(found.score, -found.score.T)
    assert torch.equal(found.pairwise_scores, -found.pairwise_scores.transpose(0, 1))
    assert found.group_scores.shape == (3, found.eigenvalues.shape[0])


def test_bradley_terry_scores_are_differences_of_rewards():
    found = reference("llama_bt").compare("Name a colour", ["Blue", "Red", "Green"])
    reward = found.vectors[:, 0]
    assert torch.equal(found.vectors[:, 1], torch.ones(3))
    assert found.eigenvalues.tolist() == [1.0]
    torch.testing.assert_close(found.score, reward[:, None] - reward)


def test_n_responses_cost_n_rows():
    model, rows = reference("gemma2_d4", batch_size=4), []
    model.backbone.register_forward_hook(
        lambda module, args, kwargs, output: rows.append(len(kwargs["input_ids"])),
        with_kwargs=True,
    )
    model.compare("Name a colour", [f"Colour {i}" for i in range(10)])
    assert sum(rows) == 10
    assert max(rows) == 4


def test_scaled_eigenvalues():
    """k · softmax(logits / √32) from the reference's own gate logits."""
    expected = GOLDEN["llama_d6_gate"]["chat"][0]
    samples = expected["samples"]
    found = reference("llama_d6_gate", eigenvalue_scale="scaled").compare(
        tuple(samples[0][:1]), [s[1]["content"] for s in samples]
    )
    logits = torch.tensor(expected["gate_logits"][0])
    close(found.eigenvalues, (3 * torch.softmax(logits / 32**0.5, -1)).tolist())
    assert abs(float(found.eigenvalues.sum()) - 3) < 1e-5


def test_tau_scales_the_probability():
    cold, warm = (reference("gemma2_d4", tau=tau).compare("Hi", ["a", "b"]) for tau in (0.1, 1.0))
    torch.testing.assert_close(
        torch.logit(cold.win_probability), 10 * torch.logit(warm.win_probability)
    )


def test_long_texts_are_cut_on_the_right_and_end_with_eos():
    text = reference("llama_bt", max_tokens=20).text
    whole = reference("llama_bt").text
    long = conversation("Name a colour", "Blue " * 30)
    cut, full = text([long])[0], whole([long])[0]
    assert len(cut.ids) == 20
    assert cut.ids[:-1] == full.ids[:19]
    assert cut.ids[-1] == full.ids[-1] == text.tokenizer.eos_token_id
    assert cut.prompt_tokens == 20  # the prompt itself was cut


def test_the_gate_reads_the_user_behind_a_system_message():
    """The same system message before all prompts must not give all the same eigenvalues."""
    text = reference("llama_d6_gate").text
    system = {"role": "system", "content": "Be brief."}
    rows = [(system, *conversation(prompt, "Blue")) for prompt in ("Name a colour", "Sky?")]
    heads = text([row[:2] for row in rows])  # system and user alone
    for row, head in zip(text(rows), heads, strict=True):
        assert row.prompt_tokens == len(head.ids)
        assert row.ids[: row.prompt_tokens - 1] == head.ids[:-1]  # a text's last token is EOS


def test_groups_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match=r"sizes \[1, 2\]"):
        reference("llama_bt").embed([chat("a"), chat("b")], [["x"], ["x", "y"]])


def test_tokenizer_without_template_is_refused_by_key():
    with pytest.raises(ConfigError, match=r"preference_model\.chat_template"):
        ChatText(tiny_tokenizer(chat_template=None))


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gemma2"])
def test_new_model_on_any_backbone_has_spread_angles_and_an_even_gate(arch):
    examples = [conversation(f"Name item {i}", f"It is {i * 37 % 101}") for i in range(60)]
    model = from_backbone(tiny_model(arch).base_model, tiny_tokenizer(), examples=examples).eval()
    vectors, eigenvalues = model.embed_conversations(examples)
    angle = torch.atan2(vectors[:, 1::2], vectors[:, ::2])
    # A uniform angle has |E exp(iθ)| = 0; one direction for all has 1.
    concentration = torch.stack([angle.cos().mean(0), angle.sin().mean(0)]).norm(dim=0)
    assert concentration.max() < 0.5
    torch.testing.assert_close(eigenvalues, torch.full((60, 3), 1 / 3))


def test_spread_needs_enough_examples():
    model = from_backbone(tiny_model().base_model, tiny_tokenizer(), num_axes=3)
    with pytest.raises(ValueError, match="6 directions"):
        spread_angles(model, [conversation("a", "b")] * 5)


@pytest.mark.parametrize(("kind", "num_axes"), [("gpm", 0), ("bradley_terry", 2)])
def test_impossible_number_of_axes(kind, num_axes):
    with pytest.raises(ConfigError, match=r"preference_model\.num_axes"):
        from_backbone(tiny_model().base_model, tiny_tokenizer(), kind=kind, num_axes=num_axes)


def conversation(prompt: str, response: str):
    return (*chat(prompt), {"role": "assistant", "content": response})
