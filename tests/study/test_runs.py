"""The study speaks of gold: runs that another judge has judged are refused by name."""

from __future__ import annotations

import pytest

from gprl_lightning.study.runs import read_grid
from tests.study.synthetic_grid import write_run

CURVE = [0.5, 0.6, 0.6, 0.6, 0.6]


@pytest.mark.parametrize(
    ("evaluation", "refused"),
    [("judge: sandbox_gold", None), ("judge: my.better", "better: my.better"),
     ("judge: preference_model", "proxy: the reward itself")],
)  # fmt: skip
def test_only_the_gold_is_called_gold(tmp_path, evaluation, refused):
    job = write_run(tmp_path, "a", 0, CURVE, [0.0, 1.0, 2.0, 3.0, 4.0])
    (job / "config.yaml").write_text(f"evaluation: {{{evaluation}}}\n")
    if refused is None:
        assert len(read_grid(tmp_path)) == 1
        return
    with pytest.raises(ValueError, match=f"judged by the sandbox's gold.*the judge {refused}"):
        read_grid(tmp_path)
