"""report.html without a browser: its data, that it is whole, and that no text can act on it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest

from gprl_lightning.tracking import report_page
from gprl_lightning.tracking.answer_log import read_answers, write_answers
from gprl_lightning.tracking.report_page import embedded, run_data, write_page
from tests.tracking.report_runs import AXES, EXPLOIT, HOSTILE, write_run


class Page(HTMLParser):
    """The tags of a page, and the texts of its scripts, as a parser of HTML sees them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def page(run):
    return write_page(run).read_text(encoding="utf8")


def test_what_a_policy_writes_makes_no_element(page):
    parsed = Page(page)
    assert [attrs.get("type") for tag, attrs in parsed.tags if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not [tag for tag, _ in parsed.tags if tag == "img"]
    assert HOSTILE not in page and "onerror='" not in parsed.scripts[1]
    answers = json.loads(parsed.scripts[0])["runs"][0]["prompts"][0]["answers"]
    assert all(HOSTILE in answer["text"] for answer in answers)


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "&amp;", "\u2028", "\ud800"])
def test_embedded_json_has_no_markup_and_reads_back(text):
    found = embedded({"text": text})
    assert not set("<>&") & set(found) and found.isascii()
    assert json.loads(found) == {"text": text}


def test_numbers_that_json_lacks_are_null():
    found = json.loads(embedded([math.nan, math.inf, 1 / 3, 7, True]))
    assert found == [None, None, 0.333333, 7, True]


def test_only_the_page_s_own_script_may_run(page):
    parsed = Page(page)
    (policy,) = [a["content"] for t, a in parsed.tags if a.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "connect-src" not in policy


def test_it_needs_no_other_file(page):
    links = [a for _, attrs in Page(page).tags for k, a in attrs.items() if k in ("src", "href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "innerHTML" not in page and "http://" not in page.replace("http://www.w3.org/", "")


def test_the_data_are_the_run_s(run):
    data = run_data(run, "one")
    assert data["iterations"] == [0, 10, 20] and data["left_out"] == 0
    assert tuple(data["axes"]) == AXES and data["judges"] == ["mine", "proxy"]
    assert data["tasks"] == {"count": [0.25, 0.75], "thank": [0.75, 0.25]}
    row = read_answers(run, 20)[3]
    answer = data["prompts"][3]["answers"][2]
    by_hand = [
        a[0] * b[1] - a[1] * b[0] for a, b in zip(row["vectors"], row["start_vectors"], strict=True)
    ]
    assert answer["rewards"] == by_hand and by_hand[0] == 1.03
    assert EXPLOIT in answer["text"] and answer["verdicts"] == {"mine": 0.0, "proxy": 1.0}


def test_every_curve_is_in_a_panel_once(run):
    data = run_data(run, "one")
    shown = [n for p in data["panels"] + data["others"] for n in (*p["lines"], *(p["band"] or ()))]
    assert sorted(shown) == sorted(data["columns"])


def test_evaluations_are_left_out_evenly_where_a_page_would_be_too_large(run, monkeypatch):
    monkeypatch.setattr(report_page, "MAX_CHARACTERS", 100)
    data = run_data(run, "one")
    assert data["iterations"] == [0, 20] and data["left_out"] == 1
    assert all(len(prompt["answers"]) == 2 for prompt in data["prompts"])


def test_scores_of_pairwise_sources_are_those_against_the_start(tmp_path):
    """Its planes belong to one call: answers of two evaluations cannot be compared by them."""
    folder = write_run(tmp_path, prompts=2, evaluations=1)
    rows = read_answers(folder, 0)
    for row in rows:  # s = 0.8 as of_pairs has it: [s/2 by plane, unit vector], interleaved
        row["vectors"] = [[0.0, 1.0, 0.4, 0.0]] * 2
        row["start_vectors"] = [[-0.4, 0.0, 0.0, 1.0]] * 2
    write_answers(folder, 0, rows)
    prompt = run_data(folder, "one")["prompts"][0]
    assert prompt["answers"][0]["rewards"] == pytest.approx([0.8, 0.8])
    assert prompt["answers"][0]["vectors"] is None and prompt["start"]["vectors"] is None


def test_a_run_without_answers_or_evaluation_has_a_page(tmp_path):
    (tmp_path / "metrics.csv").write_text("trainer/iteration,train/kl\n1,0.5\n2,nan\n")
    text = write_page(tmp_path).read_text(encoding="utf8")
    (run,) = json.loads(Page(text).scripts[0])["runs"]
    assert run["prompts"] == [] and run["columns"]["train/kl"] == [[1, 2], [0.5, None]]


def test_other_runs_are_beside_it_under_names_that_tell_them_apart(run, tmp_path):
    other = write_run(tmp_path / "runs" / "one", prompts=3, seed=1)
    text = write_page(run, [other]).read_text(encoding="utf8")
    names = [r["name"] for r in json.loads(Page(text).scripts[0])["runs"]]
    assert len(set(names)) == 2 and all(re.search(r"runs\d*/one$", n) for n in names)
