"""The models: the policy, and the preference model with its training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gprl_lightning.config.checks import at_least, one_of, require
from gprl_lightning.core import options
from gprl_lightning.errors import ConfigError

if TYPE_CHECKING:
    from gprl_lightning.core.options import EigenvalueScale, Kind, L2Scope
else:  # as in config.algorithm
    EigenvalueScale = Kind = L2Scope = str

DTYPES = Literal["float32", "bfloat16", "float16"]


@dataclass
class LoraConfig:
    """Low-rank adapters on the policy (``lora=adapters``; needs the ``lora`` extra)."""

    r: int = 16
    alpha: int = 32
    target_modules: Any = "all-linear"

    def __post_init__(self) -> None:
        at_least("policy.lora", self, 1, "r", "alpha")


@dataclass
class PolicyConfig:
    """The language model that is trained, and, frozen as it starts, the reference.

    ``path`` is a folder, a hub name, or one of the built-in names ``sandbox`` and ``smollm2_135m``.
    """

    path: str = "sandbox"
    dtype: str = "float32"  # of the weights
    attention: str | None = None  # sdpa | eager | flash_attention_2; None: the model's default
    gradient_checkpointing: bool = False
    chat_template: str | None = None  # a Jinja file, for a tokenizer without one
    lora: LoraConfig | None = None

    def __post_init__(self) -> None:
        # A float16 weight overflows above 65,504 and loses most small steps, without a word.
        if self.dtype == "float16":
            raise ConfigError(
                "policy.dtype='float16': expected one that trains without loss scaling, float32 or "
                "bfloat16. Set policy.dtype=float32, with trainer.precision=bf16-mixed "
                "to compute in half precision."
            )
        one_of("policy.dtype", self.dtype, DTYPES)


@dataclass
class PreferenceModelConfig:
    """The frozen judge of the group: a GPM with ``num_axes`` axes, or Bradley-Terry (one axis).

    ``path`` is a folder, a hub name, or ``sandbox``: a model trained on demand, from gold-labelled
    pairs of the starting policy's own responses, and cached.
    """

    path: str = "sandbox"
    # gpm | bradley_terry | multi_head (k labels) | gold (ours: the sandbox's judge)
    kind: Kind = "gpm"
    num_axes: int | None = 3  # k; must be the checkpoint's; None: whatever it has
    eigenvalue_scale: EigenvalueScale | None = (
        None  # simplex | scaled; None: the checkpoint's, else simplex
    )
    l2_normalize: bool | None = None  # None: the checkpoint's, else true
    l2_scope: L2Scope | None = None  # all | axis (ours); None: the checkpoint's, else all
    gate_temperature: float | None = None  # of the gate's softmax; None: the checkpoint's, else 1
    tau: float | None = None  # None: the checkpoint's, else 0.1 for a GPM and 1 for Bradley-Terry
    dtype: str = "float32"
    max_tokens: int | None = None  # of a text; None: the checkpoint's; of a new one 2048
    batch_size: int = 32  # responses per forward
    chat_template: str | None = None  # a Jinja file, for a tokenizer without one
    # `_target_` and options of any other `PreferenceSource`, in the place of all of the above
    source: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)  # of preference_model=composed
    functions: list[str] = field(default_factory=list)  # of preference_model=functions
    weights: list[Any] | None = None  # their λ: numbers, or columns of the data; None: 1 each
    version: str | None = None  # the user's word for what they call, part of the run's identity

    def __post_init__(self) -> None:
        one_of("preference_model.kind", self.kind, options.Kind)
        scale = self.eigenvalue_scale
        if scale is not None:
            one_of("preference_model.eigenvalue_scale", scale, options.EigenvalueScale)
        one_of("preference_model.dtype", self.dtype, DTYPES)
        at_least("preference_model", self, 1, "num_axes", "max_tokens", "batch_size")
        if self.l2_scope is not None:
            one_of("preference_model.l2_scope", self.l2_scope, options.L2Scope)
        warm = self.gate_temperature
        require("preference_model.gate_temperature", warm is None or warm > 0, warm, "> 0, or null")
        require("preference_model.tau", self.tau is None or self.tau > 0, self.tau, "> 0, or null")


@dataclass
class PreferenceTrainingConfig:
    """Training of a preference model (METHOD §1).

    Its shape is that of `preference_model`, its pairs those of `data`.
    """

    backbone: str = "sandbox"  # folder, hub name, or a built-in policy: where the network starts
    backbone_layers: int | None = None  # keep only its first layers, to save time; None: all; ours
    lr: float = 5e-4  # published: 2e-6 (8B) to 1e-5 (2B)
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_fraction: float = 0.03
    gated: bool = True  # a head on the prompt gives the eigenvalues
    sandbox_pairs: int = 5000  # gold-labelled pairs to make, where data.path=sandbox
    sandbox_prompts: int | None = None  # requests that these are about; None: all
    epochs: int = 2
    batch_size: int = 32  # pairs per optimiser step
    micro_batch_size: int | None = None  # pairs per forward; None: the whole batch
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0
    seed: int = 0  # its own, so that runs of several seeds share one preference model
    held_out_pairs: int = 500  # of the sandbox's own
    responses_per_prompt: int = 9  # that the sandbox's pairs are drawn from
    label_noise: float = 0.0  # share of the sandbox's labels that are turned over
    length_bias: float = 0.0  # share of them that go to the longer response, whatever the gold says
    cyclic_votes: int = 0  # votes in the sandbox's gold of a plane in which it goes round; ours
    # What pulls the axes apart, see also core.distinct_axes; ours, and off
    spread_angles: bool = False  # start with each axis's angles all around the circle
    decorrelation: float = 0.0  # weight of the squared correlation between axes' scores
    gate_information: float = 0.0  # weight at which a gate that depends on the prompt is rewarded
    axis_attributes: list[str] = field(default_factory=list)  # axis l is told the l-th of these
    attribute_weight: float = 1.0  # of their loss
    evaluate_every: float = 0.25  # epochs between held-out evaluations; the best is kept

    def __post_init__(self) -> None:
        names = ("sandbox_pairs", "epochs", "batch_size", "micro_batch_size", "backbone_layers")
        at_least("preference_training", self, 1, *names)
        at_least("preference_training", self, 2, "sandbox_prompts")
        key, every = "preference_training.", self.evaluate_every
        require(key + "evaluate_every", 0 < every <= 1, every, "in (0, 1]")
        names = ("cyclic_votes", "decorrelation", "gate_information", "attribute_weight")
        at_least("preference_training", self, 0, *names)
        for name in ("label_noise", "length_bias"):
            value = getattr(self, name)
            require(key + name, 0 <= value <= 1, value, "in [0, 1]")
        require(key + "max_grad_norm", self.max_grad_norm > 0, self.max_grad_norm, "> 0")
