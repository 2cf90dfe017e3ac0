"""Decoding by the Hugging Face model itself, for every architecture."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gprl_lightning.core.transfers import sent
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.causal_lm import positions, tried_on
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.cache import make_cache

LARGEST_GAP = 0.05  # of the largest logit: well above bfloat16's rounding


class PlainDecoding:
    """Each prompt is read once, and its KV cache expanded over the group.

    Args:
        model: any causal LM, in eval and without autograd.
        ids: left-padded prompts, on the host.
        mask: their real tokens.
        size: rows that go on from each prompt, side by side.

    Attributes:
        logits: of each row's next token.
    """

    logits: Float[Tensor, "rows vocab"]

    def __init__(
        self,
        model: PreTrainedModel,
        ids: Int[Tensor, "groups prompt_tokens"],
        mask: Bool[Tensor, "groups prompt_tokens"],
        size: int,
    ) -> None:
        start = int((~mask).sum(1).min())
        ids, mask = (sent(x[:, start:], model.device) for x in (ids, mask))
        self.model, self.cache = model, make_cache(model.config)
        out = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions(mask),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache.batch_repeat_interleave(size)
        self.logits = out.logits[:, -1].repeat_interleave(size, 0)
        self.mask = mask.repeat_interleave(size, 0).long()
        self.positions = mask.sum(1).repeat_interleave(size)

    def advance(self, tokens: Int[Tensor, " rows"]) -> None:
        """Feed the tokens and get the next logits."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        self.logits = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.positions = self.positions + 1

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]


def require_decodable(policy: Policy) -> None:
    """Check on two short texts that decoding token by token gives the whole text's logits.

    Some architectures keep a state of their own (Mamba, RWKV), which is not expanded over a group,
    or which padding on the left gets into. Anchors and evaluations are sampled so with every
    sampler.

    Raises:
        ConfigError: it does not, or it cannot be done.
    """
    if policy.shares_prompts:
        return
    with policy.sampling() as model:
        model = tried_on(model)
        name = type(model).__name__
        try:
            gap = _gap_to_whole_texts(model)
        except Exception as error:  # whatever the architecture's own code raises
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ConfigError(
                f"policy.path: expected a model with a cache of keys and values, to sample groups "
                f"with; found that {name} has none that can be expanded ({found}). Choose another "
                "policy.path."
            ) from error
    if gap > LARGEST_GAP:
        raise ConfigError(
            f"policy.path: expected that {name} gives a text's logits token by token, too; found "
            f"others, by {gap:.0%} of the largest. Padding or the cache gets into its state: "
            "choose another policy.path."
        )


def _gap_to_whole_texts(model: PreTrainedModel) -> float:
    """The largest difference of logits, as a share of the largest of them."""
    ids = torch.tensor([[0, 0, 1], [0, 1, 1]], device=model.device)
    mask = torch.tensor([[False, True, True], [True, True, True]], device=model.device)
    more = torch.tensor([1, 0, 0, 1], device=model.device)
    decoding = PlainDecoding(model, ids, mask, 2)
    decoding.advance(more)
    decoding.select(torch.tensor([0, 3], device=model.device))
    decoding.advance(more[:2])
    gap, largest = 0.0, 0.0
    for row, begun, end in ((0, ids[0, 1:], more[:1]), (1, ids[1], more[3:])):
        text = torch.cat([begun, end, more[row : row + 1]])
        whole = model(input_ids=text[None], use_cache=False).logits[0, -1].float()
        gap = max(gap, float((decoding.logits[row].float() - whole).abs().max()))
        largest = max(largest, float(whole.abs().max()))
    return gap / largest
