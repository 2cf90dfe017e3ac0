"""Bradley-Terry models as one cautious reward: from folders, trained on demand, and refused."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.config.validation import validate
from gprl_lightning.core.pessimism import combined
from gprl_lightning.core.preference import pairwise_scores
from gprl_lightning.data.preferences import make_pair
from gprl_lightning.errors import ConfigError
from gprl_lightning.evaluation.witness import rests_on
from gprl_lightning.models.bt_ensemble import BTEnsemble
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.preference_source import PreferenceSource
from gprl_lightning.models.pretrained_preference import save_preference_model
from gprl_lightning.tasks import sandbox_preference_model
from gprl_lightning.tasks.build import build_preference_source
from gprl_lightning.tasks.plan_memory import planned
from tests.composing import composed
from tests.tiny import chat, tiny_model, tiny_tokenizer

PROMPTS, RESPONSES = [chat("say a"), chat("say bb")], [["a", "aaa", "b"], ["bb", "", "no"]]
OWN = ("sandbox_only=false", "evaluation.judge=none", "preference_model=bt_ensemble")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for seed, tau in enumerate((1.0, 1.0, 0.5)):
        model = tiny_model("llama", seed=seed).model
        judge = from_backbone(
            model, tiny_tokenizer(), kind="bradley_terry", num_axes=1, tau=tau, seed=seed
        )
        torch.nn.init.normal_(judge.value_head.weight, generator=torch.manual_seed(seed))
        save_preference_model(judge, root / str(seed))
    save_preference_model(from_backbone(tiny_model("llama").model, tiny_tokenizer()), root / "gpm")
    return root


def ensemble(folders, *overrides):
    names = ",".join(str(folders / str(seed)) for seed in range(3))
    cfg = composed(*OWN, f"preference_model.folders=[{names}]", *overrides)
    return build_preference_source(validate(cfg), cfg)


@pytest.mark.parametrize("word", ["minimum", "mean", "mean_minus_std", "mean_minus_variance"])
def test_scores_are_differences_of_the_combined_logits(folders, word):
    source = ensemble(folders, f"preference_model.combination={word}")
    assert isinstance(source, BTEnsemble) and isinstance(source, PreferenceSource)
    found = source.embed(PROMPTS, RESPONSES)
    assert found.vectors.shape == (2, 3, 1, 2) and (found.eigenvalues == 1).all()
    rewards = torch.stack(
        [m.embed(PROMPTS, RESPONSES).vectors[..., 0, 0] / m.tau for m in source.models]
    ).double()
    assert [m.tau for m in source.models] == [1.0, 1.0, 0.5] and source.tau == 1.0
    expected = combined(rewards, word, 0.5)
    scores = pairwise_scores(found.vectors.double())[..., 0]
    difference = expected[:, :, None] - expected[:, None]
    torch.testing.assert_close(scores, difference, atol=1e-5, rtol=1e-4)


def test_the_options_are_alive_and_part_of_the_identity(folders):
    source = ensemble(folders)
    assert source.identity() == ensemble(folders).identity()
    for override in ("combination=mean_minus_std", "disagreement_weight=2"):
        assert ensemble(folders, f"preference_model.{override}").identity() != source.identity()
    one, two = (
        ensemble(
            folders,
            "preference_model.combination=mean_minus_std",
            f"preference_model.disagreement_weight={weight}",
        ).embed(PROMPTS, RESPONSES)
        for weight in (0.5, 2)
    )
    assert (one.vectors - two.vectors).abs().max() > 1e-3


def test_members_are_frozen_with_it_and_are_no_witnesses(folders):
    source = ensemble(folders)
    frozen = FrozenModel(source)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert len(rests_on(source)) == 3
    assert rests_on(source.models[1]) < rests_on(source)


def test_what_is_no_ensemble_is_refused(folders):
    with pytest.raises(ConfigError, match=r"preference_model\.folders: expected two"):
        BTEnsemble.of_folders([])
    with pytest.raises(ConfigError, match=r"found \['bradley_terry', 'gpm'\]"):
        BTEnsemble.of_folders([str(folders / "0"), str(folders / "gpm")])
    with pytest.raises(ConfigError, match=r"preference_model\.members=3: .*sandbox_bt_ensemble"):
        validate(composed("preference_model.members=3"))


@pytest.mark.parametrize(
    "words, combination",
    [
        (["preference_model=sandbox_bt_ensemble", "algorithm=grpo"], "minimum"),
        (["ablation=grpo_bt_ensemble_minimum"], "minimum"),
        (["ablation=grpo_bt_ensemble_std"], "mean_minus_std"),
    ],
)
def test_the_words_compose(words, combination):
    config = validate(composed(*words))
    assert config.preference_model.members == 3
    assert config.preference_model.combination == combination
    scorers = [name for name in planned(config).resident if "preference model" in name]
    assert len(scorers) == 3


def test_members_are_trained_on_the_same_pairs_and_kept(tmp_path, monkeypatch):
    prompt = ({"role": "user", "content": "hi"},)
    pairs = tuple([make_pair(prompt, f"a{i}", f"b{i}") for i in range(n)] for n in (4, 2))
    seen = []
    monkeypatch.setattr(
        sandbox_preference_model,
        "sandbox_pairs",
        lambda config: seen.append(sandbox_preference_model.pairs_fingerprint(config)) or pairs,
    )
    options = ("batch_size=2", "epochs=1", "evaluate_every=1", "backbone_layers=1")
    overrides = [f"preference_training.{option}" for option in options]
    cfg = composed(
        f"paths.cache={tmp_path}", "preference_model=sandbox_bt_ensemble", "algorithm=grpo",
        "preference_model.members=2", *overrides,
    )  # fmt: skip
    source = build_preference_source(validate(cfg), cfg)
    heads = [member.value_head.weight for member in source.models]
    assert not torch.equal(*heads) and len(seen) == 2 and len(set(seen)) == 1
    cfg = composed(
        f"paths.cache={tmp_path}", "preference_model=sandbox_bt", "algorithm=grpo", *overrides
    )
    alone = build_preference_source(validate(cfg), cfg)  # the first member, from the cache
    assert torch.equal(alone.value_head.weight, heads[0]) and len(seen) == 2
