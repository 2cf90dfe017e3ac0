"""The policy: a causal language model, its tokenizer, and exact log-probabilities of samples."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gprl_lightning.config import PolicyConfig
from gprl_lightning.core.batch import Columns, Messages, PromptBatch
from gprl_lightning.core.host_tokens import HostTokens
from gprl_lightning.core.logprobs import Slope
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.builtin import MADE, made_again_if_damaged
from gprl_lightning.models.causal_lm import (
    disable_dropout,
    flush_left,
    head_is_plain,
    head_logprobs,
    logits_logprobs,
    require_causal,
)
from gprl_lightning.models.chat_template import ChatTemplate
from gprl_lightning.models.decoder import compile_layers
from gprl_lightning.models.deferred import Waiting, adapted, deferred_network
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.gathered import gathered_model
from gprl_lightning.models.lora import leave_frozen_weights_out, with_lora
from gprl_lightning.models.network_files import from_hub, load_network
from gprl_lightning.models.policy_tokens import end_tokens, left_pad
from gprl_lightning.models.quantized import is_quantized, loading_options, save_merged
from gprl_lightning.models.shared_prompt import SDPA, shared_prompt_states, shares_prompts
from gprl_lightning.models.tokenizer_files import load_tokenizer
from gprl_lightning.runtime.sharding import is_sharded, whole


class Policy(nn.Module):
    """A causal LM that is sampled from and trained at one temperature.

    Dropout is set to zero in every module. GPRL needs π_θ/π_old = 1 at the first update, so rollout
    and update must be the same function; and the model cannot just be kept in eval, since Hugging
    Face's gradient checkpointing works in train mode only.

    Args:
        model: a Hugging Face causal LM, or a PEFT model around one.
        tokenizer: its tokenizer, with a chat template.
        temperature: of sampling; every log-probability is of softmax(logits / temperature).

    Attributes:
        weights_from: where its weights are still to be read from, shard by shard, by
            `models.deferred.read_shards`; None: it has them.

    Raises:
        ConfigError: no chat template, or no end-of-sequence token.
    """

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.chat = ChatTemplate(tokenizer, "policy")
        self.weights_from: Waiting | None = None
        self.model = model
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.eos_ids = end_tokens(self.causal_lm, tokenizer)
        # A filler only: masks say what is padding, so it may well equal EOS.
        pad = tokenizer.pad_token_id
        self.pad_id = self.eos_ids[0] if pad is None else cast(int, pad)
        disable_dropout(model)
        self.head_is_plain = head_is_plain(self.causal_lm)
        self.shares_prompts = shares_prompts(self.causal_lm)
        if model is not self.causal_lm:
            leave_frozen_weights_out(self)

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The Hugging Face model itself, with its adapters (if any) in place."""
        if isinstance(self.model, PreTrainedModel):
            return self.model
        return self.model.get_base_model()  # type: ignore[operator]

    def forward(
        self,
        prompt_ids: Int[Tensor, "rows prompt_tokens"],
        prompt_mask: Bool[Tensor, "rows prompt_tokens"],
        response_ids: Int[Tensor, "rows tokens"],
        response_mask: Bool[Tensor, "rows tokens"],
        slope: Slope | None = None,
        known: HostTokens | None = None,
    ) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]]:
        """Return log π of every response token, and the entropy of its distribution, in nats.

        Prompts are left-padded and responses right-padded. Both results are 0 outside
        ``response_mask``; entropy has no gradient.

        Where the architecture is known, a prompt that several rows share is run once. Elsewhere
        each row is moved to the left, prompt and response without a gap. All padding is
        then behind the tokens, where causal attention cannot see it: no mask is needed, which is
        both exact and what lets the attention kernels go fast, and a batch is only as wide as its
        longest row.

        Where ``slope`` tells the loss's derivatives ahead (by tokens in the order of
        ``response_mask.nonzero()``), the output layer's gradients are made on the way forward.
        What is ``known`` on the host need not be read from the device.
        """
        known = known or HostTokens.of(prompt_ids, prompt_mask, response_mask)
        if is_sharded(self):  # FSDP moves whatever it is called with to the device
            known = HostTokens(*(tensor.cpu() for tensor in known))
        rows, columns = known.places(response_ids.device)
        targets = response_ids[rows, columns]
        if self.shares_prompts and len(rows):
            hidden = shared_prompt_states(self.causal_lm, known, response_ids)
            values = self._from_hidden(hidden, targets, slope)
        else:
            ids = torch.cat([prompt_ids, response_ids], 1)
            longest = int((known.prompt_mask.sum(1) + known.lengths).max())
            ids = flush_left(ids, torch.cat([prompt_mask, response_mask], 1), longest)
            # The position before a token predicts it; what the last one predicts is not asked for.
            inputs = {"input_ids": ids[:, :-1], "use_cache": False}
            before = prompt_mask.sum(1)[rows] + columns - 1
            if self.head_is_plain:
                hidden = self.causal_lm.base_model(**inputs).last_hidden_state[rows, before]
                values = self._from_hidden(hidden, targets, slope)
            else:
                logits = self.causal_lm(**inputs).logits[rows, before]
                values = logits_logprobs(logits, targets, self.temperature)
        logprobs, entropy = (
            value.new_zeros(response_ids.shape).index_put((rows, columns), value)
            for value in values
        )
        return logprobs, entropy

    def _from_hidden(
        self, hidden: Float[Tensor, "n width"], targets: Int[Tensor, " n"], slope: Slope | None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        model = self.causal_lm
        if self.head_is_plain:
            return head_logprobs(model, hidden, targets, self.temperature, slope)
        head = cast(nn.Module, model.get_output_embeddings())  # with an adapter of its own
        return logits_logprobs(head(hidden), targets, self.temperature)

    def encode_prompts(
        self,
        iteration: int,
        uids: Sequence[int],
        messages: Sequence[Messages],
        max_prompt_tokens: int,
        columns: Sequence[Columns] = (),
    ) -> PromptBatch:
        """Write chat messages in the policy's tokens, by its chat template, left-padded.

        Raises:
            ConfigError: a prompt longer than ``max_prompt_tokens`` (none is ever cut), or one that
                the template refuses.
        """
        rows = self.chat.tokens(messages, generation=True)
        for uid, row in zip(uids, rows, strict=True):
            if len(row) > max_prompt_tokens:
                raise ConfigError(
                    f"data.max_prompt_tokens={max_prompt_tokens}: prompt {uid} has {len(row)} "
                    "tokens. Raise it, or drop such prompts from data.path: none is cut silently."
                )
        ids, mask = left_pad(rows, self.pad_id)
        return PromptBatch(
            iteration, torch.tensor(uids), tuple(messages), ids, mask, tuple(columns)
        )

    def decode(
        self, ids: Int[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"]
    ) -> tuple[str, ...]:
        """Return the text of the tokens under ``mask``, without special and end-of-sequence
        tokens."""
        texts = [
            [token for token in row[keep].tolist() if token not in self.eos_ids]
            for row, keep in zip(ids.cpu(), mask.cpu(), strict=True)
        ]
        return tuple(self.tokenizer.batch_decode(texts, skip_special_tokens=True))

    @contextmanager
    def sampling(self) -> Iterator[PreTrainedModel]:
        """Return the causal LM in eval and without autograd: in train mode, gradient
        checkpointing would drop its KV cache."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad(), whole(self):
                yield self.causal_lm
        finally:
            self.train(training)


class _AdapterFree(nn.Module):
    """A LoRA policy with its adapters off: the starting policy, at no memory, called and sampled
    like it."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = (policy,)  # in a tuple: its owner registers it, and only once
        self.eos_ids, self.pad_id, self.decode = policy.eos_ids, policy.pad_id, policy.decode
        self.shares_prompts = policy.shares_prompts

    @contextmanager
    def sampling(self) -> Iterator[PreTrainedModel]:
        (policy,) = self.policy
        with policy.model.disable_adapter(), policy.sampling() as model:  # type: ignore[operator]
            yield model

    def forward(
        self,
        prompt_ids: Int[Tensor, "rows prompt_tokens"],
        prompt_mask: Bool[Tensor, "rows prompt_tokens"],
        response_ids: Int[Tensor, "rows tokens"],
        response_mask: Bool[Tensor, "rows tokens"],
        known: HostTokens | None = None,
    ) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]]:
        (policy,) = self.policy
        with policy.model.disable_adapter():  # type: ignore[operator]
            return policy(prompt_ids, prompt_mask, response_ids, response_mask, known=known)


def whole_policy(network: Any) -> AbstractContextManager[None]:
    """Hold a policy's, or a reference's, weights whole on this process: see `runtime.sharding`."""
    return whole(weights_in(network))


def weights_in(network: Any) -> nn.Module:
    """Return what has the weights of a policy, or of a reference, which may be another's."""
    module = network.module if isinstance(network, FrozenModel) else network
    return module.policy[0] if isinstance(module, _AdapterFree) else module


def reference_of(policy: Policy) -> FrozenModel[Policy]:
    """Return the policy as it stands, frozen, called like it: a copy, or with LoRA the network
    itself with its adapters off."""
    if policy.model is not policy.causal_lm:
        return FrozenModel(cast(Policy, _AdapterFree(policy)))  # of its kind in all that is used
    shared = {id(policy.tokenizer): policy.tokenizer}
    return FrozenModel(copy.deepcopy(policy, shared))


def load_policy(
    config: PolicyConfig, path: str | Path, temperature: float, deferred: bool = False
) -> Policy:
    """Return the policy of ``config``, with weights and tokenizer from ``path``.

    Args:
        config: dtype, attention, gradient checkpointing, chat template and adapters.
        path: a folder or hub name: ``config.path`` with built-in names resolved.
        temperature: of sampling.
        deferred: leave the weights where they are until the policy is sharded, if its files allow
            that.

    Raises:
        ConfigError: nothing there to load, files that are damaged or incomplete, a network that
            reads both ways, no chat template, targets of LoRA that are not there, or no peft.
    """
    dtype = getattr(torch, config.dtype)
    how = {} if config.quantization is None else loading_options(dtype)
    with made_again_if_damaged(path, config.path in MADE):
        tokenizer = load_tokenizer("policy.path", path, config.chat_template)
        found = None
        if deferred:
            folder = Path(path) if Path(path).is_dir() else from_hub("policy.path", str(path))
            given = AutoModelForCausalLM, "policy.path", folder, dtype, config.attention
            found = deferred_network(*given)
        model, waiting = found or (
            load_network(
                AutoModelForCausalLM,
                "policy.path",
                path,
                dtype=dtype,
                attn_implementation=config.attention,
                **how,
            ),
            None,
        )
    require_causal(model, f"policy.path={str(path)!r}")
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.lora is not None:
        model.enable_input_require_grads()
        add = partial(with_lora, config=config.lora)
        model = add(model) if waiting is None else adapted(model, add)
    policy = Policy(model, tokenizer, temperature)
    if config.compile:
        if not policy.shares_prompts:
            raise ConfigError(
                f"policy.compile=true: expected layers that are known (the Llama family, with "
                f"policy.attention={SDPA} or null); found {type(model).__name__}, which Hugging "
                "Face's code runs. Set policy.compile=false."
            )
        compile_layers(policy.causal_lm)
    policy.weights_from = waiting and waiting.inside(policy, policy.causal_lm)
    return policy


def has_adapters(policy: Policy) -> bool:
    """Return True for a policy that is trained by LoRA."""
    return policy.model is not policy.causal_lm


def save_policy(policy: Policy, folder: str | Path, merged: bool = False) -> None:
    """Write weights and tokenizer as Hugging Face does; with LoRA the adapters alone, unless
    ``merged``, which writes the whole network with the adapters added in.

    A sharded policy is gathered: every process must call this, and the first one writes.
    """
    model: Any = policy.model
    if is_sharded(policy):
        model = gathered_model(policy.model, policy.causal_lm)
        if model is None:
            return
    elif merged and is_quantized(model):
        save_merged(policy.causal_lm, folder, policy.causal_lm.dtype)
        policy.tokenizer.save_pretrained(folder)
        return
    elif merged and has_adapters(policy):
        model = copy.deepcopy(model)
    if merged and has_adapters(policy):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
