"""Several sources as one, and classifiers whose labels are axes."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaForSequenceClassification

from gprl_lightning.config.validation import validate
from gprl_lightning.core.preference import pairwise_scores
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.composed import Composed
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.multi_head import MultiHead
from gprl_lightning.models.pretrained_preference import (
    load_preference_model,
    save_preference_model,
)
from gprl_lightning.tasks.build import build_preference_source
from tests.composing import composed
from tests.tiny import chat, tiny_config, tiny_model, tiny_tokenizer

NAMES = ("helpful", "honest", "harmless")
PROMPTS, RESPONSES = [chat("say a"), chat("say bb")], [["a", "aaa", "b"], ["bb", "", "no"]]


@pytest.fixture
def classifier(tmp_path):
    config = tiny_config("llama")
    config.num_labels, config.id2label = 3, dict(enumerate(NAMES))
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "classifier")
    tiny_tokenizer().save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier", model


def gpm(folder, seed, **options):
    judge = from_backbone(tiny_model("llama", seed=seed).model, tiny_tokenizer(), **options)
    save_preference_model(judge, folder)
    return judge.eval()


def test_k_labels_are_k_axes_by_name(classifier):
    folder, model = classifier
    source = load_preference_model(folder, kind="multi_head")
    assert isinstance(source, MultiHead) and source.axes == NAMES and source.tau == 1
    scores = pairwise_scores(source.embed(PROMPTS, RESPONSES).vectors)
    tokenizer = tiny_tokenizer()
    for group, (prompt, texts) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        logits = []
        for text in texts:
            messages = [*prompt, {"role": "assistant", "content": text}]
            written = tokenizer.apply_chat_template(messages, tokenize=False)
            ids = tokenizer(written, add_special_tokens=False, return_tensors="pt").input_ids
            last = model.model(ids).last_hidden_state[0, -1]
            logits.append(model.score(last))
        expected = torch.stack(logits)
        difference = expected[:, None] - expected[None]
        torch.testing.assert_close(scores[group], difference, atol=1e-4, rtol=1e-4)


def test_labels_without_names_have_numbers(classifier):
    folder, _ = classifier
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "id2label": {}}))
    assert load_preference_model(folder).axes == ("0", "1", "2")


def test_a_classifier_is_told_from_a_gpm_before_it_loads(classifier):
    folder, _ = classifier
    own = ("sandbox_only=false", "evaluation.judge=none", f"preference_model.path={folder}")
    with pytest.raises(ConfigError, match=r"Set preference_model.kind=multi_head .*num_axes=3"):
        validate(composed("preference_model=folder", *own))
    config = validate(composed("preference_model=classifier", *own))
    assert config.preference_model.num_axes is None


def test_num_axes_is_what_the_checkpoint_has(tmp_path):
    gpm(tmp_path / "gpm", 3, num_axes=2)
    cfg = composed("preference_model=folder", f"preference_model.path={tmp_path / 'gpm'}",
                   "sandbox_only=false")  # fmt: skip
    assert build_preference_source(validate(cfg), cfg).axes == ("0", "1")


def test_several_checkpoints_are_one_source(tmp_path, classifier):
    first = gpm(tmp_path / "a", 3, kind="bradley_terry", num_axes=1)
    second = gpm(tmp_path / "b", 4, num_axes=2, tau=0.25)
    parts = f"{{good: {{path: {tmp_path / 'a'}}}, safe: {{path: {tmp_path / 'b'}, weight: 2}}}}"
    cfg = composed("preference_model=composed", f"+preference_model.parts={parts}")
    source = build_preference_source(validate(cfg), cfg)
    assert isinstance(source, Composed)
    assert source.axes == ("good", "safe/0", "safe/1") and source.tau == 1
    found = source.embed(PROMPTS, RESPONSES)
    alone = [one.embed(PROMPTS, RESPONSES) for one in (first, second)]
    scores = torch.cat(
        [pairwise_scores(alone[0].vectors), pairwise_scores(alone[1].vectors) / 0.25], -1
    )
    torch.testing.assert_close(pairwise_scores(found.vectors), scores)
    expected = torch.cat([alone[0].eigenvalues, 2 * alone[1].eigenvalues], 1)
    torch.testing.assert_close(found.eigenvalues, expected)
    held = FrozenModel(source)
    assert not any(p.requires_grad for p in held.parameters())
    assert len(list(source.parameters())) > 20
    assert set(source.identity()["parts"]) == {"good", "safe"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "message"),
    [("{}", "one checkpoint or more"), ("{a: {}}", "parts.a: expected a path"),
     ("{a: {path: PATH, size: 3}}", "parts.a: expected options")],
)  # fmt: skip
def test_parts_that_are_none(parts, message, tmp_path):
    gpm(tmp_path / "gpm", 3)
    given = parts.replace("PATH", str(tmp_path / "gpm"))
    cfg = composed("preference_model=composed", f"+preference_model.parts={given}")
    with pytest.raises(Exception, match=message):
        build_preference_source(validate(cfg), cfg)
