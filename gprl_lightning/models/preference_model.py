"""The judge: a General Preference Model (GPM, arXiv 2410.02197), or Bradley-Terry, on one backbone.

``v(y|x) = W h`` is read at the conversation's last token and L2-normalised; the eigenvalues
``λ(x) = softmax(W_p h_x)`` are read at the prompt's last token, and so depend on the prompt alone.
A Bradley-Terry reward r is given as the vector ``[r, 1]`` with λ = 1: then s(i, j) = r_i − r_j, and
nothing downstream needs a special case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from gprl_lightning.core.axis_rotation import rotated
from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.checksum import checksum
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.core.options import EigenvalueScale, Kind, L2Scope
from gprl_lightning.core.preference import (
    axis_pairs,
    group_scores,
    pairwise_scores,
    total_scores,
    win_probability,
)
from gprl_lightning.core.transfers import sent
from gprl_lightning.errors import ConfigError, NotFinite
from gprl_lightning.models.chat_text import ChatText, TextBatch
from gprl_lightning.models.deferred import Waiting, weights_of
from gprl_lightning.models.shared_prompt import shares_prompts
from gprl_lightning.models.shared_scoring import batches_by_prompt, states_of_texts
from gprl_lightning.models.tokenizer_files import tokenizer_fingerprint
from gprl_lightning.runtime.sharding import agreed, whole

DEFAULT_TAU: dict[str, float] = {"gpm": 0.1, "bradley_terry": 1.0, "multi_head": 1.0}


@dataclass(frozen=True)
class Comparison:
    """The n responses to one prompt, compared.

    Attributes:
        vectors: v(y|x).
        eigenvalues: λ(x).
        tau: temperature of the win probability.
    """

    vectors: Float[Tensor, "n two_axes"]
    eigenvalues: Float[Tensor, " axes"]
    tau: float

    @property
    def pairwise_scores(self) -> Float[Tensor, "n n axes"]:
        """s_l(i, j) of each axis, without λ."""
        return pairwise_scores(axis_pairs(self.vectors[None]))[0]

    @property
    def score(self) -> Float[Tensor, "n n"]:
        """s(i ≻ j | x) = Σ_l λ_l s_l(i, j)."""
        return total_scores(self.pairwise_scores, self.eigenvalues)

    @property
    def win_probability(self) -> Float[Tensor, "n n"]:
        """P(i ≻ j | x) = sigmoid(s / τ)."""
        return win_probability(self.score, self.tau)

    @property
    def group_scores(self) -> Float[Tensor, "n axes"]:
        """Mean score of each response against the others, by axis; takes n ≥ 2."""
        return group_scores(axis_pairs(self.vectors[None]))[0]


class PreferenceModel(nn.Module):
    """A backbone with a value head (2k entries, or one for Bradley-Terry) and, where gated, a
    prompt head.

    ``rotation``, a unitary matrix or None, turns the axes, see `core.axis_rotation`; ``attributes``
    names those that the first axes were trained on; ``weights_from`` says where the backbone's
    weights are still to be read from, shard by shard.

    Args:
        backbone: a causal ``AutoModel`` (no language-model head).
        value_head: hidden → 2k, or hidden → 1, without bias.
        prompt_head: hidden → k without bias, or None: λ = 1.
        text: how conversations become tokens.
        tau: temperature of the win probability; None: 0.1 for a GPM, 1 for Bradley-Terry.
        eigenvalue_scale: ``simplex``: softmax(W_p h); ``scaled``: k · softmax(W_p h / √hidden).
        l2_normalize: divide v by its norm over all 2k entries.
        l2_scope: ``axis``: divide each axis's two entries by their own norm instead, so that no
            axis can grow at another's expense, and a score is the sine of an angle (ours).
        gate_temperature: divides the gate's logits before the softmax (ours).
        batch_size: responses per forward in `embed`.
    """

    def __init__(
        self,
        backbone: Any,
        value_head: nn.Linear,
        prompt_head: nn.Linear | None,
        text: ChatText,
        *,
        tau: float | None = None,
        eigenvalue_scale: EigenvalueScale = "simplex",
        l2_normalize: bool = True,
        l2_scope: L2Scope = "all",
        gate_temperature: float = 1.0,
        batch_size: int = 32,
    ):
        super().__init__()
        self.kind: Kind = "bradley_terry" if value_head.out_features == 1 else "gpm"
        self.num_axes = max(value_head.out_features // 2, 1)
        self.tau = DEFAULT_TAU[self.kind] if tau is None else tau
        if not self.tau > 0:
            raise ConfigError(f"preference_model.tau={tau!r}: expected > 0, or null.")
        if text.values == "answer_only" and (prompt_head is None or self.num_axes == 1):
            gate = "without a gate" if prompt_head is None else "with a gate"
            raise ConfigError(
                "preference_model.values=answer_only: expected a gate on two axes or more, because "
                f"only the gate sees the prompt; found preference_model.num_axes={self.num_axes} "
                f"{gate}. Set preference_model.values=conversation, or take a gated GPM of two "
                "axes or more."
            )
        self.backbone, self.value_head, self.prompt_head = backbone, value_head, prompt_head
        self.shares_prompts = isinstance(backbone, PreTrainedModel) and shares_prompts(backbone)
        self.text, self.batch_size = text, batch_size
        self.eigenvalue_scale: EigenvalueScale = eigenvalue_scale
        self.l2_normalize = l2_normalize and self.kind == "gpm"
        self.l2_scope: L2Scope = l2_scope
        self.gate_temperature = gate_temperature
        self.rotation: Tensor | None = None
        self.attributes: tuple[str, ...] = ()
        self.weights_from: Waiting | None = None

    @property
    def tokenizer(self) -> Any:
        return self.text.tokenizer

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    def forward(
        self, batch: TextBatch
    ) -> tuple[Float[Tensor, "rows two_axes"], Float[Tensor, "rows axes"]]:
        """Return vectors v(y|x) and eigenvalues λ(x) of each row, float32, whichever side is
        padded."""
        return self._read(*self.hidden_states(batch))

    def _read(
        self, last: Float[Tensor, "rows width"], prompt: Float[Tensor, "rows width"]
    ) -> tuple[Float[Tensor, "rows two_axes"], Float[Tensor, "rows axes"]]:
        """What the heads make of the states at the last token of each text, and of its prompt."""
        vectors = linear(self.value_head, last)
        if self.kind == "bradley_terry":
            return torch.cat([vectors, torch.ones_like(vectors)], -1), torch.ones_like(vectors)
        if self.l2_normalize:
            if self.l2_scope == "axis":
                vectors = F.normalize(axis_pairs(vectors), dim=-1).flatten(-2)
            else:
                vectors = F.normalize(vectors, dim=-1)
        eigenvalues = self._eigenvalues(prompt)
        if self.rotation is not None:
            turned, eigenvalues = rotated(axis_pairs(vectors), eigenvalues, self.rotation)
            vectors = turned.flatten(-2)
        return vectors, eigenvalues

    def hidden_states(
        self, batch: TextBatch
    ) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows width"]]:
        """Return the backbone's states at the last token of each row's text, and of the prompt that
        its gate reads."""
        mask = batch.mask
        positions = (mask.long().cumsum(-1) - 1).masked_fill(~mask, 1)
        states = self.backbone(
            input_ids=batch.input_ids,
            attention_mask=mask.long(),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        gates, first = batch.gate_texts, mask.int().argmax(-1)
        rows = torch.arange(len(gates), device=mask.device)
        last = first + mask.sum(-1) - 1
        return states[rows, last[rows]], states[gates, first[gates] + batch.prompt_tokens - 1]

    def _eigenvalues(self, prompt: Float[Tensor, "rows width"]) -> Float[Tensor, "rows axes"]:
        if self.prompt_head is None:
            return prompt.new_ones((len(prompt), self.num_axes), dtype=torch.float32)
        logits = linear(self.prompt_head, prompt) / self.gate_temperature
        if self.eigenvalue_scale == "scaled":
            return self.num_axes * torch.softmax(logits / prompt.shape[-1] ** 0.5, dim=-1)
        return torch.softmax(logits, dim=-1)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes have numbers for names."""
        return tuple(map(str, range(self.num_axes)))

    def identity(self) -> dict[str, object]:
        """Return weights, options and tokenizer."""
        return {
            "weights": checksum(weights_of(self)),
            "kind": self.kind,
            "tau": self.tau,
            "eigenvalue_scale": self.eigenvalue_scale,
            "gate_temperature": self.gate_temperature,
            "l2_normalize": self.l2_normalize,
            "l2_scope": self.l2_scope,
            "max_tokens": self.text.max_tokens,
            "text_format": self.text.text_format,
            "values": self.text.values,
            "rotation": as_numbers(self.rotation),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
        }

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns] = (),
    ) -> Embeddings:
        """Return vectors of every response (one forward each) and eigenvalues of every prompt,
        without gradient.

        Args:
            prompts: chat messages, one conversation per group.
            responses: the responses to each prompt, equally many for each.

        Raises:
            ValueError: groups of unequal size, or not one group per prompt.
        """
        sizes = {len(group) for group in responses}
        if len(prompts) != len(responses) or len(sizes) != 1 or sizes == {0}:
            raise ValueError(
                f"expected one group of responses per prompt, all of one size; found "
                f"{len(prompts)} prompts, {len(responses)} groups, sizes {sorted(sizes)}."
            )
        conversations = [
            answered(prompt, response)
            for prompt, group in zip(prompts, responses, strict=True)
            for response in group
        ]
        vectors, eigenvalues = self.embed_conversations(conversations)
        size = sizes.pop()
        # By causality all rows of a group agree on λ up to rounding; one of them speaks for all.
        grouped = vectors.view(len(prompts), size, self.num_axes, 2)
        return Embeddings(grouped, eigenvalues[::size].clone())

    @torch.no_grad()
    def embed_conversations(
        self, conversations: Sequence[Messages]
    ) -> tuple[Float[Tensor, "rows two_axes"], Float[Tensor, "rows axes"]]:
        """Return vectors and eigenvalues of whole conversations, in batches of similar length.

        Where the architecture is known, a prompt that several of them share is run once.

        Raises:
            NotFinite: the network gives NaN or Inf for one of them.
        """
        found = self._in_batches(conversations, self._read)
        if not torch.stack([values.isfinite().all() for values in found]).all():
            raise NotFinite(
                "preference_model.path: expected finite vectors and eigenvalues; found NaN or Inf. "
                f"Its weights overflow in {self.backbone.dtype}: set preference_model.dtype="
                "float32, or another path."
            )
        return found

    @torch.no_grad()
    def states_of_conversations(
        self, conversations: Sequence[Messages]
    ) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows width"]]:
        """Return the states that the value head and the gate read, as `embed_conversations` does.

        With a frozen backbone they are all that heads have to be trained on.
        """
        return self._in_batches(conversations, lambda last, prompt: (last, prompt))

    def _in_batches(
        self,
        conversations: Sequence[Messages],
        read: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """What `read` makes of the states, row by row."""
        rows = self.text(conversations)
        batches = batches_by_prompt(rows, self.batch_size)
        found: list[tuple[Tensor, Tensor]] = []
        with whole(self):
            for batch, counts in agreed(self, batches, "of scoring"):
                part = [rows[i] for i in batch]
                if self.shares_prompts:
                    states = states_of_texts(self.backbone, part)
                else:
                    states = self.hidden_states(self.text.collate(part).to(self.device))
                found += [read(*states)] if counts else []
            order = torch.tensor([i for batch in batches for i in batch]).argsort()
            back = sent(order, self.device)
        first, second = (torch.cat(parts)[back] for parts in zip(*found, strict=True))
        return first, second

    def compare(self, prompt: str | Messages, responses: Sequence[str]) -> Comparison:
        """Compare the responses to one prompt: n forwards for n responses.

        Args:
            prompt: a text, or chat messages that end with the user.
        """
        messages: Messages = (
            ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
        )
        found = self.embed([messages], [responses])
        return Comparison(found.vectors[0].flatten(-2), found.eigenvalues[0], self.tau)


def as_numbers(rotation: Tensor | None) -> list[list[list[float]]] | None:
    """Return a rotation as rows of [real, imaginary], for a file."""
    return None if rotation is None else torch.view_as_real(rotation).tolist()


def texts_read(modules: Iterable[nn.Module]) -> tuple[int, int]:
    """Return how many texts the preference models inside `modules` have read so far, and how many
    of them were cut at ``max_tokens``."""
    inside = [m for module in modules for m in module.modules() if isinstance(m, PreferenceModel)]
    return sum(m.text.read for m in inside), sum(m.text.cut for m in inside)


def answered(prompt: Messages, response: str) -> Messages:
    """Return the conversation in which the assistant gives ``response``."""
    return (*prompt, {"role": "assistant", "content": response})


def linear(head: nn.Linear, states: Tensor) -> Tensor:
    """Return what a head makes of states, in float32."""
    # In float32 even under autocast: a bf16 score would break skew symmetry's exact zero.
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states.float(), head.weight.float())
