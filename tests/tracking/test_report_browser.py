"""report.html in a real browser: headless Chromium by selenium (`make test-browser`)."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from gprl_lightning.tracking.report_page import write_page
from tests.tracking.report_runs import AXES, EXPLOIT, HOSTILE, write_run

pytestmark = pytest.mark.browser
LARGE = 2000  # answers: 200 prompts, 10 evaluations
WORDS = 200  # of an answer


@pytest.fixture(scope="module")
def driver():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary, service = shutil.which("chromium"), shutil.which("chromedriver")
    assert binary and service, "apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1500,1600"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(service))
    yield browser
    browser.quit()


@pytest.fixture
def opened(driver, tmp_path):
    """Opens the page of a run of so many answers; whatever the console says, it must be nothing."""

    def open_page(prompts: int = 20, evaluations: int = 3, others: int = 0, words: int = 20):
        run = write_run(tmp_path / "one", prompts, evaluations, words=words)
        beside = [write_run(tmp_path / f"other{i}", prompts, 2, seed=i + 1) for i in range(others)]
        driver.get(write_page(run, beside).as_uri())
        return driver

    yield open_page
    assert driver.get_log("browser") == []
    if folder := os.environ.get("SCREENSHOTS"):
        name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]
        driver.save_screenshot(f"{folder}/{name}.png")


def _all(driver, selector):
    return driver.find_elements("css selector", selector)


def _cards(driver):
    return [card.text for card in _all(driver, ".card")]


def _choose(driver, name, text):
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("id", name)).select_by_visible_text(text)


def test_what_a_policy_writes_is_shown_and_does_nothing(opened):
    driver = opened()
    driver.find_element("id", "filter").send_keys("window.hacked")
    (card,) = _cards(driver)
    assert card.count(HOSTILE) >= 4  # the prompt's and each answer's, letter by letter
    assert driver.execute_script("return window.hacked") is None
    assert not _all(driver, "img")


def test_the_planted_exploit_stands_first(opened):
    """Without a click: prompts on which the reward rose and the judge fell, and their words."""
    driver = opened()
    assert all(EXPLOIT in card for card in _cards(driver)[:10])
    came = [row.text for row in _all(driver, "#phrases tr")[1:4]]
    assert len([row for row in came if EXPLOIT in row]) == 1  # and not its every part
    assert not any("you so" in row for row in came if EXPLOIT not in row)
    assert [e for e in _all(driver, "#measures tr")[1].text.split() if e.startswith("+")]


def test_it_sorts_by_what_rose_and_by_what_fell(opened):
    driver = opened()
    _choose(driver, "sort", f"reward, axis {AXES[0]}")
    assert "say number 19 " in _cards(driver)[0]  # the largest planted reward
    _choose(driver, "direction", "fell most first")
    assert "say number 19 " not in _cards(driver)[0]
    _choose(driver, "sort", "mine: clarity")
    assert int(_cards(driver)[0].split("say number ")[1].split()[0]) % 2 == 1
    row = next(r for r in _all(driver, "#measures tr") if r.text.startswith("tokens"))
    row.click()
    assert driver.find_element("css selector", "#sort option:checked").text == "tokens"


def test_it_filters_by_text_and_marks_it(opened):
    driver = opened()
    driver.find_element("id", "filter").send_keys("NUMBER 7 to")
    assert len(_cards(driver)) == 1 and "1 of 20" in driver.find_element("id", "count").text
    assert [mark.text for mark in _all(driver, "mark")] == ["number 7 to"]
    driver.find_element("id", "filter").clear()
    next(r for r in _all(driver, "#phrases tr") if EXPLOIT in r.text).click()
    assert "10 of 20" in driver.find_element("id", "count").text


def test_eigenvalues_stand_by_task_and_choose_its_prompts(opened):
    driver = opened()
    rows = _all(driver, "#tasks tr")
    assert [row.text.split() for row in rows[1:]] == [
        ["count", "0.25", "0.75"],
        ["thank", "0.75", "0.25"],
    ]
    rows[2].click()
    assert "10 of 20" in driver.find_element("id", "count").text


def test_pairwise_scores_are_skew_symmetric_matrices_by_axis(opened):
    driver = opened()
    _choose(driver, "sort", f"reward, axis {AXES[0]}")
    driver.find_element("css selector", ".card details summary").click()
    figures = _all(driver, ".card details[open] figure")
    assert len(figures) == len(AXES) and AXES[0] in figures[0].text
    cells = [[float(c.get_attribute("title")) for c in row.find_elements("tag name", "td")]
             for row in figures[0].find_elements("tag name", "tr")[1:]]  # fmt: skip
    assert len(cells) == 4  # the starting policy's answer, and three evaluations
    assert all(cells[i][j] == -cells[j][i] for i in range(4) for j in range(4))
    assert cells[3][0] == pytest.approx(1.19)  # of the first card, prompt 19: its reward


def test_a_curve_is_read_by_moving_over_it(opened):
    from selenium.webdriver import ActionChains

    driver = opened()
    panel = next(p for p in _all(driver, "#panels .panel") if "KL to the reference" in p.text)
    assert "KL 0.2" in panel.text
    drawing = panel.find_element("tag name", "svg")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", drawing)
    ActionChains(driver).move_to_element(drawing).perform()
    assert "@10" in panel.text or "@9" in panel.text or "@11" in panel.text
    curves = len(panel.find_elements("css selector", "path.curve"))
    panel.find_element("css selector", ".legend button").click()
    assert len(panel.find_elements("css selector", "path.curve")) == curves - 1


def test_other_runs_are_drawn_over_its_curves_and_their_answers_below(opened):
    driver = opened(others=1)
    panel = next(p for p in _all(driver, "#panels .panel") if "KL to the reference" in p.text)
    assert len(panel.find_elements("css selector", "path.curve")) == 2
    assert len(_all(driver, ".card:first-child .strip")) == 2
    other = driver.find_element("css selector", "#run option:last-child").text
    _choose(driver, "run", other)
    assert driver.find_element("css selector", "#to option:checked").text == "10"


def test_two_thousand_answers_open_sort_and_filter_within_a_second(opened):
    """Seconds are printed: `pytest -s`."""
    driver = opened(prompts=LARGE // 10, evaluations=10, words=WORDS)
    timing = "const t = performance.getEntriesByType('navigation')[0]; return t.domComplete / 1000"
    seconds = {"open": driver.execute_script(timing)}
    act = (
        "const t = performance.now(); {}; document.body.offsetHeight; return performance.now() - t"
    )
    again = "at('{0}').dispatchEvent(new Event('{1}'))"
    for name, deed in {
        "sort": "at('sort').value = 3; " + again.format("sort", "change"),
        "filter": "at('filter').value = 'river'; " + again.format("filter", "input"),
        "compare": "at('from').value = 4; " + again.format("from", "change"),
    }.items():
        seconds[name] = driver.execute_script(act.format(deed)) / 1000
    print({name: round(value, 3) for name, value in seconds.items()})
    assert len(_cards(driver)) == 12
    assert max(seconds.values()) < 1


def test_the_page_is_written_quickly(tmp_path):
    run = write_run(tmp_path / "one", LARGE // 10, 10, words=WORDS)
    begun = time.perf_counter()
    size = write_page(run).stat().st_size
    print(f"{time.perf_counter() - begun:.2f} s, {size / 1e6:.2f} MB")
    assert time.perf_counter() - begun < 5
