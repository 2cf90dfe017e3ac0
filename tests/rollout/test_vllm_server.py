"""Sampling by servers: whose weights, which faults, and how each of them ends."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from gprl_lightning.errors import ConfigError, SamplerFailed, WrongWeights
from gprl_lightning.rollout import vllm_push
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.vllm_server import VLLMServerSampler
from tests.rollout.fake_vllm import FakeVLLM, serving
from tests.tiny import tiny_policy, tiny_prompts
from tests.worlds import tiny_loader, tiny_module, tiny_trainer

TEXTS = ["hi", "how are you, my friend?", "say it again", "a<pad>b"]
THREE = Sampling(3, 12)


@pytest.fixture
def policy():
    return tiny_policy()


@pytest.fixture
def fakes(policy):
    """Two servers of the policy as it starts, and a sampler that knows both."""
    fakes = [FakeVLLM(policy), FakeVLLM(policy)]
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(fake)) for fake in fakes]
        yield fakes, VLLMServerSampler(urls, timeout=20)


def moved(policy, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.3 * parameter.std() * torch.randn_like(parameter)


def own_logprobs(policy, rollout):
    size = rollout.group_size
    with torch.no_grad():
        return policy(
            rollout.prompts.input_ids.repeat_interleave(size, 0),
            rollout.prompts.mask.repeat_interleave(size, 0),
            rollout.response_ids,
            rollout.response_mask,
        )[0]


def test_responses_of_the_weights_that_were_pushed_last(policy, fakes):
    (one, other), sampler = fakes
    prompts = tiny_prompts(policy, TEXTS)
    for version in range(2):
        moved(policy, version)
        sampler.weights_changed(policy, version)
        rollout = sampler.sample(policy, prompts, THREE, 1)
        assert rollout.version == version
        assert rollout.response_ids.shape[0] == 12
        found, own = rollout.sampler_logprobs, own_logprobs(policy, rollout)
        torch.testing.assert_close(found, own, atol=2e-5, rtol=0)
        assert rollout.responses == policy.decode(rollout.response_ids, rollout.response_mask)
    assert one.version == other.version and not one.paused
    # Each of the two got two of the four prompts, twice, beside one probe after each push.
    assert len(one.prompts) == len(other.prompts) == 2 * 2 + 2
    pushes = one.calls.count("/collective_rpc"), one.calls.count("/reset_prefix_cache")
    assert pushes == (2, 2)
    sampler.weights_changed(policy, 1)
    assert one.calls.count("/collective_rpc") == 2, "the same version is not pushed again"


def test_repeatable_and_keyed_by_seed_iteration_and_prompt(policy, fakes):
    _, sampler = fakes
    sampler.weights_changed(policy, 0)

    def ids(seed=0, iteration=0, first=0):
        prompts = tiny_prompts(policy, ["hi"], iteration, first)
        return sampler.sample(policy, prompts, THREE, seed).response_ids.tolist()

    assert ids() == ids()
    assert ids() not in (ids(seed=1), ids(iteration=1), ids(first=1))
    alone, together = ids(), tiny_prompts(policy, ["hi", "how are you"])
    both = sampler.sample(policy, together, THREE, 0)
    assert [row[: len(alone[0])] for row in both.response_ids.tolist()[:3]] == alone


def test_nothing_is_sampled_before_there_are_weights(policy, fakes):
    with pytest.raises(WrongWeights, match="weights_changed"):
        fakes[1].sample(policy, tiny_prompts(policy, TEXTS), THREE, 0)


@pytest.mark.parametrize("fault", ["slow", "dead", "truncated", "crashed", "abort"])
def test_a_server_that_is_gone_is_dropped_and_gets_the_next_weights_when_it_is_back(
    policy, fakes, fault
):
    (one, other), sampler = fakes
    for peer in sampler.peers:
        peer.server.timeout = 0.8
    other.sleep = 1.2
    sampler.weights_changed(policy, 0)
    prompts = tiny_prompts(policy, TEXTS)
    expected = sampler.sample(policy, prompts, THREE, 0)
    other.fault = fault
    with pytest.warns(UserWarning, match="left out until the next weights"):
        found = sampler.sample(policy, prompts, THREE, 0)
    assert torch.equal(found.response_ids, expected.response_ids), "a response knows no server"
    other.fault = None
    moved(policy)
    sampler.weights_changed(policy, 1)
    before = len(other.prompts)
    sampler.sample(policy, prompts, THREE, 0)
    assert len(other.prompts) == before + 2
    assert one.version == other.version


def test_a_server_that_is_dead_when_weights_are_pushed_is_left_out(policy, fakes):
    (one, other), sampler = fakes
    other.fault = "dead"
    with pytest.warns(UserWarning, match="left out"):
        sampler.weights_changed(policy, 0)
    assert sampler.sample(policy, tiny_prompts(policy, TEXTS), THREE, 0).version == 0
    assert other.version == "default" and one.version.endswith("-0")


def test_a_cache_that_is_not_emptied_leaves_the_server_out(policy, fakes):
    (_, other), sampler = fakes
    other.fault = "prefix"
    with pytest.warns(UserWarning, match="prefix cache"):
        sampler.weights_changed(policy, 0)
    assert other.paused, "it must not answer"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_any_server_the_run_ends_by_name(policy, fakes):
    (one, other), sampler = fakes
    sampler.weights_changed(policy, 0)
    one.fault = other.fault = "dead"
    with pytest.raises(SamplerFailed, match=r"rollout\.sampler\.urls.*vllm_start"):
        sampler.sample(policy, tiny_prompts(policy, TEXTS), THREE, 0)
    with pytest.raises(SamplerFailed, match="vllm_start"):
        sampler.weights_changed(policy, 1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_after_a_hiccup_the_servers_with_the_right_weights_are_asked_again(policy, fakes):
    (one, other), sampler = fakes
    sampler.weights_changed(policy, 0)
    for peer in sampler.peers:
        peer.alive = False
    assert sampler.sample(policy, tiny_prompts(policy, TEXTS), THREE, 0).version == 0
    assert len(one.prompts) + len(other.prompts) == 4 + 2


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("version", WrongWeights, "found .*another"),
        ("model", SamplerFailed, "404"),
        ("vocabulary", SamplerFailed, "another vocabulary"),
        ("short", SamplerFailed, "max-model-len"),
    ],
)
def test_an_answer_that_every_server_would_give_ends_the_run(policy, fakes, fault, error, words):
    (one, _), sampler = fakes
    sampler.weights_changed(policy, 0)
    one.fault = fault
    with pytest.raises(error, match=words):
        sampler.sample(policy, tiny_prompts(policy, TEXTS), THREE, 0)


def test_a_push_that_answers_200_and_changes_nothing_is_seen_by_the_probe(policy, fakes):
    (_, other), sampler = fakes
    sampler.weights_changed(policy, 0)
    other.fault = "stale"
    moved(policy)
    with pytest.raises(WrongWeights, match=r"kept old weights.*probe_tolerance"):
        sampler.weights_changed(policy, 1)
    assert other.version.endswith("-1"), "though it says that it has them"


def test_another_runs_weights_of_the_same_number_are_not_ours(policy, fakes):
    _, sampler = fakes
    theirs = VLLMServerSampler([peer.server.url for peer in sampler.peers], timeout=20)
    sampler.weights_changed(policy, 3)
    theirs.weights_changed(policy, 3)
    with pytest.raises(WrongWeights, match="Something else gave"):
        sampler.sample(policy, tiny_prompts(policy, TEXTS), THREE, 0)


def test_with_lora_the_adapters_alone_are_pushed(tmp_path):
    from tests.models.test_policy_loading import lora_policy, save_policy

    save_policy(tiny_policy("llama"), tmp_path)
    policy = lora_policy(tmp_path)
    fake = FakeVLLM(policy)
    with serving(fake) as url:
        sampler = VLLMServerSampler([url], timeout=20)
        for version in range(2):
            with torch.no_grad():
                for parameter in policy.parameters():
                    if parameter.requires_grad:
                        parameter += 0.1 * torch.randn_like(parameter)
            sampler.weights_changed(policy, version)
            rollout = sampler.sample(policy, tiny_prompts(policy, TEXTS), THREE, 0)
            own = own_logprobs(policy, rollout)
            torch.testing.assert_close(rollout.sampler_logprobs, own, atol=5e-5, rtol=0)
        assert "/collective_rpc" not in fake.calls
        # A name for each version, so that no cached prefix of an old one can pass for the new.
        assert fake.adapters == {"policy", f"policy-{sampler.run}-1"}


def test_weights_leave_no_file_behind(policy, tmp_path):
    with vllm_push.weights_folder(policy, str(tmp_path)) as folder:
        assert (folder / "model.safetensors").is_file()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"urls": []}, {"urls": ["http://x"], "transfer": "pigeon"}])
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(ConfigError, match=r"rollout\.sampler\."):
        VLLMServerSampler(**options)


def test_a_whole_run_by_a_server(tmp_path):
    module = tiny_module(3)
    with serving(FakeVLLM(module.policy)) as url:
        module.sampler = VLLMServerSampler([url], timeout=20)
        module.correction = replace(module.correction, mode="truncate")
        tiny_trainer(tmp_path, every=100).fit(module, tiny_loader(module, 3))
        assert module.sampler.version == 2
