"""The small world that ships with the package."""

from __future__ import annotations

from typing import Literal

from gprl_lightning.config.section import section

GoldKind = Literal["vote", "contextual"]


@section("sandbox")
class SandboxConfig:
    """Who labels the sandbox's pairs, and who judges there (``evaluation.judge=sandbox_gold``)."""

    # contextual: what counts depends on the request's task; vote: five axes, one vote each, at
    # every request. Both ours
    gold: GoldKind = "contextual"
