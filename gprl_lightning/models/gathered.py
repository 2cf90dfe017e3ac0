"""A sharded network in one piece again, for Hugging Face's files. Ours."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from gprl_lightning.runtime.processes import rank
from gprl_lightning.runtime.sharding import whole_state


def gathered_model(model: Any, causal_lm: Any) -> nn.Module | None:
    """Return a sharded network in one piece, on the CPU of the first process; None on the others,
    which must call this, too.

    Args:
        model: a Hugging Face causal LM, or a PEFT model around one.
        causal_lm: the causal LM itself.
    """
    state = whole_state(model)
    if rank() != 0:
        return None
    with torch.device("meta"):
        plain = type(causal_lm)(causal_lm.config)
        network = plain
        if model is not causal_lm:
            network = type(model)(plain, copy.deepcopy(model.peft_config["default"]))
    network.load_state_dict(state, assign=True)
    plain.generation_config = causal_lm.generation_config
    plain.tie_weights()
    return network
