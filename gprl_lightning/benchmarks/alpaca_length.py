"""AlpacaEval's length-controlled win rate: by the authors' own package, or not at all.

The package wants other versions than ours of some packages, so it runs in a process of its own,
with an interpreter of its own if one is given.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import hashlib, json, sys
import pandas as pd
from alpaca_eval import constants
from alpaca_eval.metrics import get_length_controlled_winrate
from huggingface_hub import hf_hub_download
rows = pd.DataFrame(json.load(open(sys.argv[1])))
rows = rows[rows["preference"].notna()].set_index("index")
found = get_length_controlled_winrate(rows, save_weights_dir=None)
where = {"repo_type": "dataset", "cache_dir": constants.DEFAULT_CACHE_DIR}
table = hf_hub_download("tatsu-lab/alpaca_eval", "df_gamed.csv", **where)
sha256 = hashlib.sha256(open(table, "rb").read()).hexdigest()
print(json.dumps([float(found["length_controlled_winrate"]), sha256]))
"""
TIMEOUT = 600  # seconds; it downloads a table and fits a logistic regression
# Of that table: how hard each instruction is, and two gamed baselines. It takes the newest one.
TABLE_SHA256 = "97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d"
MISSING = "No length-controlled win rate: "


def length_controlled_win_rate(
    annotations: Path, whole: bool, python: str | None = None, table_sha256: str = TABLE_SHA256
) -> tuple[float | None, str | None]:
    """Return the length-controlled win rate in percent, or a sentence that says why there is none.

    Args:
        annotations: the file of preferences, in the package's form.
        whole: True if they are of all published instructions. The authors' model knows how
            difficult each of these is, so it says nothing of others, or of a few.
        python: the interpreter that has the package; None is this one.
        table_sha256: of the table that the package downloads.
    """
    if not whole:
        return None, f"{MISSING}it is defined on all published instructions only."
    command = [python or sys.executable, "-c", SCRIPT, str(annotations)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{MISSING}{type(error).__name__}: {error}."
    last = run.stdout.strip().rpartition("\n")[2]
    try:
        if run.returncode == 0:
            value, sha256 = json.loads(last)
            if sha256 != table_sha256:
                return None, f"{MISSING}its table df_gamed.csv is not the published one ({sha256})."
            return float(value), None
    except (ValueError, TypeError):
        return None, MISSING + _reason(last)
    return None, MISSING + _reason(run.stderr)


def _reason(text: str) -> str:
    last = text.strip().rpartition("\n")[2] or "no reason given"
    if "No module named 'alpaca_eval'" in last:
        return (
            "it needs the alpaca_eval package: pip install 'gprl-lightning[benchmarks]', or give "
            "benchmark.options.python=PATH of an interpreter that has it."
        )
    return f"the alpaca_eval package says: {last[:300]}"
