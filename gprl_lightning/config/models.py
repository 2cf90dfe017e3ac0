"""The models: the policy, and the preference model with its training."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from gprl_lightning.config.section import (
    BelowOne,
    Count,
    Fraction,
    Natural,
    Positive,
    Rate,
    Seed,
    Several,
    Temperature,
    Text,
    Weight,
    section,
)
from gprl_lightning.core.options import (
    CanonicalAxes,
    Combination,
    EigenvalueScale,
    Kind,
    L2Scope,
    Schedule,
    Values,
)
from gprl_lightning.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
Tau = Annotated[float, Interval(ge=0.001, le=1000)]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


@section("policy.lora")
class LoraConfig:
    """Low-rank adapters on the policy (``lora=adapters``; needs the ``lora`` extra)."""

    r: Count = 16
    alpha: Count = 32
    target_modules: Text | list[Text] = "all-linear"


@section("policy")
class PolicyConfig:
    """The language model that is trained, and, frozen as it starts, the reference.

    ``path`` is a folder, a hub name, or one of the built-in names ``sandbox`` and ``smollm2_135m``.
    """

    path: Text = "sandbox"
    dtype: Dtype = "float32"  # of the weights
    attention: Attention | None = None  # None: the model's default
    gradient_checkpointing: bool = False
    compile: bool = False  # fuse a layer's small operators by torch.compile; takes a minute
    chat_template: Text | None = None  # a Jinja file, for a tokenizer without one
    lora: LoraConfig | None = None
    # nf4: the frozen weights under the adapters in 4 bits (``lora=qlora``; needs bitsandbytes)
    quantization: Literal["nf4"] | None = None

    def __post_init__(self) -> None:
        # A float16 weight overflows above 65,504 and loses most small steps, without a word.
        if self.dtype == "float16":
            raise ConfigError(
                "policy.dtype='float16': expected one that trains without loss scaling, float32 or "
                "bfloat16. Set policy.dtype=float32, with trainer.precision=bf16-mixed "
                "to compute in half precision."
            )
        if self.quantization is not None and self.lora is None:
            raise ConfigError(
                f"policy.quantization={self.quantization}: expected adapters, because weights in 4 "
                "bits cannot be trained. Set lora=qlora, or policy.quantization=null."
            )


@section("preference_model")
class PreferenceModelConfig:
    """The frozen judge of the group: a GPM with ``num_axes`` axes, or Bradley-Terry (one axis).

    ``path`` is a folder, a hub name, or ``sandbox``: a model trained on demand, from gold-labelled
    pairs of the starting policy's own responses, and cached.
    """

    path: Text = "sandbox"
    # gpm | bradley_terry | multi_head (k labels) | gold (ours: the sandbox's judge)
    kind: Kind = "gpm"
    num_axes: Count | None = 3  # k; must be the checkpoint's; None: whatever it has
    eigenvalue_scale: EigenvalueScale | None = None  # None: the checkpoint's, else simplex
    l2_normalize: bool | None = None  # None: the checkpoint's, else true
    l2_scope: L2Scope | None = None  # all | axis (ours); None: the checkpoint's, else all
    gate_temperature: Temperature | None = (
        None  # of the gate's softmax; None: the checkpoint's, else 1
    )
    # conversation | answer_only (ours): v is read from the answer alone, and only the gate sees the
    # prompt; None: the checkpoint's, else conversation
    values: Values | None = None
    tau: Tau | None = None  # None: the checkpoint's, else 0.1 for a GPM and 1 for Bradley-Terry
    dtype: Dtype = "float32"
    max_tokens: Count | None = None  # of a text; None: the checkpoint's; of a new one 2048
    batch_size: Count = 32  # responses per forward
    chat_template: Text | None = None  # a Jinja file, for a tokenizer without one
    # Bradley-Terry models of the same pairs as one reward, of a built-in path
    members: Count = 1
    folders: list[Text] = field(default_factory=list)  # of preference_model=bt_ensemble
    combination: Combination = "minimum"  # of the members' rewards
    disagreement_weight: Weight = 0.5  # of the std or variance that a combination takes off
    # `_target_` and options of any other `PreferenceSource`, in the place of all of the above
    source: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)  # of preference_model=composed
    functions: list[Text] = field(default_factory=list)  # of preference_model=functions
    weights: list[float | str] | None = (
        None  # their λ: numbers, or columns of the data; None: 1 each
    )
    version: Text | None = None  # the user's word for what they call, part of the run's identity


@section("preference_training")
class PreferenceTrainingConfig:
    """Training of a preference model (METHOD §1).

    Its shape is that of `preference_model`, its pairs those of `data`.
    """

    backbone: Text = "sandbox"  # folder, hub name, or a built-in policy: where the network starts
    backbone_layers: Count | None = (
        None  # keep only its first layers, to save time; None: all; ours
    )
    lr: Rate = 5e-4  # published: 2e-6 (8B) to 1e-5 (2B)
    weight_decay: Weight = 0.0
    schedule: Schedule = "cosine"
    warmup_fraction: BelowOne = 0.03
    gated: bool = True  # a head on the prompt gives the eigenvalues
    sandbox_pairs: Count = 5000  # gold-labelled pairs to make, where data.path=sandbox
    sandbox_prompts: Several | None = None  # requests that these are about; None: all
    epochs: Count = 2
    batch_size: Count = 32  # pairs per optimiser step
    micro_batch_size: Count | None = None  # pairs per forward; None: the whole batch
    gradient_checkpointing: bool = False
    max_grad_norm: Positive = 1.0
    seed: Seed = 0  # its own, so that runs of several seeds share one preference model
    member: Natural = 0  # of an ensemble: another head and order, on the pairs of the same seed
    held_out_pairs: Count = 500  # of the sandbox's own
    responses_per_prompt: Several = 9  # that the sandbox's pairs are drawn from
    label_noise: Fraction = 0.0  # share of the sandbox's labels that are turned over
    length_bias: Fraction = (
        0.0  # share of them that go to the longer response, whatever the gold says
    )
    cyclic_votes: Natural = 0  # votes in the sandbox's gold of a plane in which it goes round; ours
    # What pulls the axes apart, see also core.distinct_axes; ours, and off
    spread_angles: bool = False  # start with each axis's angles all around the circle
    decorrelation: Weight = 0.0  # weight of the squared correlation between axes' scores
    gate_information: Weight = 0.0  # weight at which a gate that depends on the prompt is rewarded
    axis_attributes: list[Text] = field(default_factory=list)  # axis l is told the l-th of these
    attribute_weight: Weight = 1.0  # of their loss
    # After training, the axes are turned to those of the scores' variance (principal), or to those
    # that hold most of the scores' squares (joint, as varimax); no score changes by it; ours
    canonical_axes: CanonicalAxes = "none"
    evaluate_every: Annotated[float, Interval(gt=0, le=1)] = (
        0.25  # epochs between held-out evaluations; the best is kept
    )

    @property
    def fit_seed(self) -> int:
        """Return what heads and order are drawn by: of member 0 it is ``seed``."""
        return self.seed + 1_000_003 * self.member
