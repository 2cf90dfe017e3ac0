"""Random models small enough for a test, of each architecture that matters, and their tokenizer."""

from __future__ import annotations

from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from gprl_lightning.core.batch import Message, Messages, PromptBatch
from gprl_lightning.models.policy import Policy

Architecture = Literal["llama", "qwen2", "gpt2", "gemma2"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "gpt2", "gemma2")

BOS, EOS, END_OF_TURN, PAD = range(4)
SPECIAL = ("<bos>", "<eos>", "<end>", "<pad>")
LETTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;!?-+*/'\"()[]{}<>@#%&=_\n"
)
VOCABULARY = len(SPECIAL) + len(LETTERS)
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{{ m.role + ':' + m.content + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def tiny_tokenizer(pad: str | None = "<pad>", chat_template: str | None = TEMPLATE):
    """One token per character, four special ones, and a chat template that writes BOS itself.

    Args:
        pad: the padding token; ``"<eos>"`` for pad == EOS, None for a tokenizer without one.
    """
    vocab = {token: i for i, token in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="?",
        pad_token=pad,
        additional_special_tokens=["<end>", "<pad>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template
    return fast


def tiny_config(
    arch: Architecture, hidden: int = 32, layers: int = 2, vocab: int = VOCABULARY
) -> PretrainedConfig:
    """The configuration of `tiny_model`. Gemma 2 has a soft cap that bites and a window of 8."""
    special = {"bos_token_id": BOS, "eos_token_id": [EOS, END_OF_TURN], "pad_token_id": PAD}
    if arch == "gpt2":
        shape = {"n_embd": hidden, "n_layer": layers, "n_head": 4, "n_positions": 512}
        return AutoConfig.for_model("gpt2", vocab_size=vocab, **shape, **special)
    shape = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    if arch == "gemma2":
        shape |= {"head_dim": hidden // 4, "sliding_window": 8, "final_logit_softcapping": 1.5}
    return AutoConfig.for_model(arch, vocab_size=vocab, **shape, **special)


def tiny_model(
    arch: Architecture = "llama",
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    vocab: int = VOCABULARY,
    spread: float = 10.0,
) -> PreTrainedModel:
    """A random causal LM in float32.

    Args:
        spread: factor on the initial weights. At 1 every next-token distribution is almost
        uniform, and
            a test that compares distributions could not fail.
    """
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(arch, hidden, layers, vocab))
    torch.set_rng_state(generator_state)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(spread)
            else:
                # Norms and biases start as constants; random ones show whether they are used.
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                parameter.add_(0.1 * noise)
    return model.eval()


def exact(model: PreTrainedModel, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """``model`` in ``dtype`` throughout. Hugging Face's RMS norms take float64 to float32 and back,
    and so do their gradients, which then depend on what was added up before."""
    for name, module in [*model.named_modules()]:
        if dtype == torch.float64 and type(module).__name__ in ("LlamaRMSNorm", "Qwen2RMSNorm"):
            norm = torch.nn.RMSNorm(module.weight.shape, module.variance_epsilon)  # type: ignore
            norm.weight = module.weight  # type: ignore
            model.set_submodule(name, norm)
    return model.to(dtype)  # type: ignore[return-value]


def tiny_policy(
    arch: Architecture = "llama",
    temperature: float = 1.0,
    pad: str | None = "<pad>",
    seed: int = 0,
) -> Policy:
    """A `Policy` of `tiny_model` and `tiny_tokenizer`."""
    return Policy(tiny_model(arch, seed), tiny_tokenizer(pad), temperature)


def chat(text: str) -> Messages:
    return (Message(role="user", content=text),)


def tiny_prompts(
    policy: Policy, texts: list[str], iteration: int = 0, first: int = 0
) -> PromptBatch:
    """``texts`` as user messages, their uids counted from ``first``."""
    uids = range(first, first + len(texts))
    return policy.encode_prompts(iteration, list(uids), [chat(t) for t in texts], 512)
