"""The table over runs: intervals, marks, warnings, and the paper's figures beside them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from gprl_lightning.__main__ import COMMANDS
from gprl_lightning.benchmarks.paper_table import cells, headline, markdown, read_results
from gprl_lightning.cli.paper_table import main
from gprl_lightning.errors import ConfigError


def run(
    folder: Path, method: str, benchmark: str, figures: dict, warnings: tuple[str, ...] = ()
) -> None:
    """Write what a run leaves; `figures` are (value, low, high) by name."""
    folder.mkdir(parents=True)
    rows = [
        {"name": n, "label": n.replace("_", " "), "value": v, "low": low, "high": high}
        for n, (v, low, high) in figures.items()
    ]
    content = {
        "benchmark": benchmark,
        "method": method,
        "warnings": list(warnings),
        "report": {"figures": rows},
    }
    (folder / "benchmark.json").write_text(json.dumps(content))


LC, PLAIN = "length_controlled_win_rate", "win_rate"


@pytest.fixture
def runs(tmp_path):
    alpaca = {LC: (50.0, 48.0, 52.0), PLAIN: (45.0, 43.0, 47.0)}
    run(tmp_path / "a", "gprl", "alpaca_eval_2", alpaca)
    for seed, score in enumerate((8.0, 8.4, 8.5)):
        run(tmp_path / f"m{seed}", "gprl", "mt_bench", {"score": (score, 7.0, 9.0)})
    poor = ("2 of 160 verdicts are missing: 2 timeout.",)
    run(tmp_path / "s", "simpo", "mt_bench", {"score": (7.5, 7.0, 8.0)}, poor)
    return tmp_path


def test_one_run_has_its_own_interval_and_several_have_their_range(runs):
    found = {(c.method, c.figure): c for c in cells(read_results([runs])) if c.source == "measured"}
    assert (found["gprl", LC].low, found["gprl", LC].high) == (48, 52)
    several = found["gprl", "score"]
    assert several.value == pytest.approx((8.0 + 8.4 + 8.5) / 3) and several.runs == 3
    assert (several.low, several.high) == (8.0, 8.5)


def test_the_paper_s_figures_stand_beside_and_say_where_they_are_from(runs):
    table = markdown(cells(read_results([runs])))
    lines = table.splitlines()
    columns = "alpaca_eval_2: length controlled win rate | mt_bench: score |"
    assert lines[0] == f"| method | {columns}"
    assert "| gprl | 50.00 (48.00 to 52.00) | 8.30 (8.00 to 8.50), 3 runs |" in lines
    assert "| simpo |  | 7.50 (7.00 to 8.00) ‡ |" in lines
    assert "| GPRL (paper) | 56.51 * |  |" in lines
    assert "| GPRL (paper) |  | 8.33 † |" in lines and "| DPO (paper) | 40.30 † |  |" in lines
    assert "† of Llama-3-8B-Instruct, quoted second-hand." in lines
    assert "‡ simpo, mt_bench: 2 of 160 verdicts are missing: 2 timeout." in lines


def test_a_plain_win_rate_is_never_beside_the_length_controlled_one(tmp_path):
    """Without the length-controlled rate, the column is the plain one, and the paper's are gone."""
    run(tmp_path / "a", "gprl", "alpaca_eval_2", {PLAIN: (45.0, 43.0, 47.0)})
    found = cells(read_results([tmp_path]))
    assert headline(found) == [("alpaca_eval_2", PLAIN)]
    assert {c.source for c in found} == {"measured"} and "56.51" not in markdown(found)


def test_the_command_writes_three_files(runs, tmp_path, capsys):
    assert "paper-table" in COMMANDS
    assert main([str(runs), "--out", str(tmp_path / "out")]) == 0
    assert "| gprl | 50.00" in capsys.readouterr().out
    with (tmp_path / "out/paper_table.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_name = {(r["method"], r["figure"]): r for r in rows}
    assert float(by_name["gprl", PLAIN]["value"]) == 45, "further figures are in the CSV"
    assert by_name["GPRL", LC]["source"] == "the paper's abstract"
    assert (tmp_path / "out/paper_table.md").exists()
    assert (tmp_path / "out/paper_table.png").read_bytes()[:4] == b"\x89PNG"


def test_a_folder_without_a_benchmark_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"expected runs of task=benchmark"):
        read_results([tmp_path])
