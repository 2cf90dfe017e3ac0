"""What the policy must know of a Hugging Face causal LM, whatever its architecture."""

from __future__ import annotations

import copy
import logging
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gprl_lightning.core.logprobs import Slope, token_logprobs
from gprl_lightning.errors import ConfigError

log = logging.getLogger(__name__)


def positions(mask: Bool[Tensor, "rows tokens"]) -> Int[Tensor, "rows tokens"]:
    """Return each token's place among the real tokens of its row; 0 on left padding."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def flush_left(
    ids: Int[Tensor, "rows tokens"], mask: Bool[Tensor, "rows tokens"], longest: int
) -> Int[Tensor, "rows longest"]:
    """Return each row's real tokens from column 0 on, with zeros behind them.

    Args:
        ids: tokens, padded on any side, or in between.
        mask: the real ones.
        longest: the largest number of real ones; to find it would be to wait for the device.
    """
    places = torch.where(mask, mask.long().cumsum(1) - 1, longest)
    room = ids.new_zeros(len(ids), longest + 1)
    return room.scatter_(1, places, ids)[:, :longest].contiguous()


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0: of modules, and the numbers that attention keeps."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def tried_on(model: PreTrainedModel) -> PreTrainedModel:
    """Return what a model's code can be tried on: itself, or, while it has no weights, two layers
    of the same code with random ones and few tokens."""
    if model.device.type != "meta":
        return model
    config: Any = copy.deepcopy(model.config)
    config.num_hidden_layers = min(2, config.num_hidden_layers)
    config.vocab_size, config.pad_token_id = min(64, config.vocab_size), None
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(model)(config).eval()


def softcap(model: PreTrainedModel) -> float | None:
    """Return Gemma's soft cap c of the logits, c · tanh(logits / c), where the architecture has
    one."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


@torch.no_grad()
def require_causal(model: PreTrainedModel, where: str) -> None:
    """Check on four tokens that no position sees those behind it.

    Some encoders (BERT) load as causal LMs and read both ways: they would be trained to copy.

    Raises:
        ConfigError: one does, or the model cannot be run. The message begins with ``where``.
    """
    model = tried_on(model)
    ids = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0]], device=model.device)
    try:
        first, second = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    except Exception as error:  # whatever the architecture's own code raises
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(
            f"{where}: expected a causal language model that reads four tokens; found that "
            f"{type(model).__name__} fails ({found}). Choose another model, or correct config.json."
        ) from error
    if not torch.allclose(first, second, rtol=0, atol=1e-3 * float(first.abs().max())):
        raise ConfigError(
            f"{where}: expected a causal language model; found that {type(model).__name__} reads "
            "what is behind a token, too. Choose a decoder, or set is_decoder in its config.json "
            "if it was trained as one."
        )


@torch.no_grad()
def head_is_plain(model: PreTrainedModel) -> bool:
    """Return True if logits are head(hidden), soft-capped or not, so that they can be made in
    chunks.

    Decided by trying it on two tokens: some architectures scale their logits (Cohere, Granite,
    Falcon-H1) under names of their own, and a list of those would be silently incomplete.
    """
    plain = type(model.get_output_embeddings()) is nn.Linear  # one with an adapter is more
    if plain:
        model = tried_on(model)
        head = cast(nn.Linear, model.get_output_embeddings())
        ids = torch.arange(2, device=model.device)[None]
        training = model.training
        model.eval()
        logits = model(input_ids=ids, use_cache=False).logits.float()
        ours = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state).float()
        model.train(training)
        cap = softcap(model)
        ours = ours if cap is None else cap * torch.tanh(ours / cap)
        plain = torch.allclose(ours, logits, rtol=1e-2, atol=1e-3 * float(logits.abs().max()))
    if not plain:
        log.warning(
            "%s transforms its logits in a way that the chunked head does not know: log-"
            "probabilities take the plain path, with a [tokens, vocabulary] tensor in memory.",
            type(model).__name__,
        )
    return plain


def head_logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "n width"],
    targets: Int[Tensor, " n"],
    temperature: float,
    slope: Slope | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return log-probabilities and entropy (nats) from hidden states, in chunks; see
    `head_is_plain`."""
    head = cast(nn.Linear, model.get_output_embeddings())
    logprobs, entropy = token_logprobs(
        hidden[None],
        head.weight,
        targets[None],
        temperature=temperature,
        bias=head.bias,
        softcap=softcap(model),
        slope=slope,
    )
    return logprobs[0], entropy[0]


def logits_logprobs(
    logits: Float[Tensor, "n vocab"], targets: Int[Tensor, " n"], temperature: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the same from logits, for every architecture. Entropy carries no gradient."""
    logprobs = torch.log_softmax(logits.float() / temperature, -1)
    detached = logprobs.detach()
    entropy = -(detached.exp() * detached).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy
