"""The pages in a browser: a study voted through by keyboard, a gallery of 2,000 clips.

They need Chromium, its driver and the extra `pages`; CONTRIBUTING.md says how to get
them. Pages are opened from the file system, as a reader would.
"""

import json
import os
import shutil
import time

import numpy as np
import pytest
from page_samples import HOSTILE, PROMPTS, shown_data, write_samples, write_study
from processes import PATIENCE_SECONDS

from snapvideo_jax.evaluation.pages.gallery import GalleryOptions, build_gallery

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed: extra `pages`"
)
from selenium.webdriver import ActionChains, Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
OPTIONS = """headless no-sandbox disable-gpu disable-quic no-first-run disable-sync
disable-background-networking disable-component-update"""
LOG = "performance"
"""Of the browser: also tells what pages ask for."""
SIZES = {"wide": (1280, 800), "phone": (390, 844)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="chromium and chromedriver are missing; see CONTRIBUTING.md",
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that saves what it downloads in its folder ``saved``."""
    root = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {LOG: "ALL"})
    for option in OPTIONS.split():
        options.add_argument(f"--{option}")
    options.add_argument(f"--user-data-dir={root / 'profile'}")
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.saved = root / "saved"
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior",
        {"behavior": "allow", "downloadPath": str(driver.saved)},
    )
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Two runs of 1,000 clips, all links to three files."""
    root = tmp_path_factory.mktemp("gallery")
    few = write_samples(root / "few", PROMPTS, frames=4)
    for step in (10, 20):
        folder = root / "runs" / f"step_{step}"
        folder.mkdir(parents=True)
        for number in range(1000):
            words = f"number {number} of step {step}" if number == 7 else str(number)
            os.link(few / f"{number % 3:05d}.mp4", folder / f"{number:05d}.mp4")
            about = json.dumps({"prompt": f"{PROMPTS[number % 3]} {words}"})
            (folder / f"{number:05d}.json").write_text(about)
        result = {"metrics": {"fvd": {"value": 100 / step, "n": 1000}}}
        (folder / "result.json").write_text(json.dumps(result))
    build_gallery(GalleryOptions(folders=[root / "runs"], out=root / "page"))
    return root / "page"


def show(browser, page, size):
    width, height = SIZES[size]
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get((page / "index.html").as_uri())


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()


def wait(browser, script, *arguments):
    """What a script gives, once it is true."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := browser.execute_script(f"return {script}", *arguments)):
        assert time.monotonic() < end, f"never came true: {script}"
        time.sleep(0.05)
    return found


def assert_fits(browser):
    """Nothing is wider than the window."""
    script = "return [document.documentElement.scrollWidth, innerWidth]"
    wide, window = browser.execute_script(script)
    assert wide <= window


def assert_from_files(browser):
    """All that pages asked for since the last look lies in the file system."""
    messages = [json.loads(one["message"])["message"] for one in browser.get_log(LOG)]
    names = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        # The browser itself shows another page first.
        and message["params"]["documentURL"].startswith("file://")
    ]
    assert any(name.endswith(".css") for name in names)
    assert all(name.startswith(("file://", "data:", "blob:")) for name in names)


# --- The study ------------------------------------------------------------------------


def vote(browser, answers):
    """Answers the questions of the pair that is shown, by keyboard."""
    keys = [Keys.ARROW_LEFT if side == "a" else Keys.ARROW_RIGHT for side in answers]
    press(browser, *keys, Keys.ENTER)


def test_a_whole_study_is_voted_through_by_keyboard(browser, study, run):
    page, key_file = study
    pairs = shown_data(page)["pairs"]
    questions = [question["name"] for question in shown_data(page)["questions"]]
    rng = np.random.default_rng(0)
    plan = {pair["id"]: rng.choice(["a", "b"], 4).tolist() for pair in pairs}
    show(browser, page, "wide")
    press(browser, "Anna", Keys.ENTER)
    text = "document.getElementById('prompt').textContent"
    for number, pair in enumerate(pairs):
        wait(browser, f"{text} === arguments[0]", pair["prompt"])
        assert browser.find_element("id", "count").text == f"{number + 1} of 6"
        assert browser.find_element("id", "bar").get_attribute("value") == str(number)
        if number == 2:
            # Stopped in the middle: the browser keeps name and votes.
            show(browser, page, "wide")
            press(browser, Keys.ENTER)
            wait(browser, f"{text} === arguments[0]", pair["prompt"])
        if number == 3:
            # Three answers are not enough; the second is corrected; back and again.
            first, second, third, fourth = plan[pair["id"]]
            wrong = "b" if second == "a" else "a"
            vote(browser, [first, wrong, third])
            assert not browser.find_element("id", "end").is_displayed()
            press(browser, Keys.ARROW_UP, Keys.ARROW_UP)
            vote(browser, [second])
            vote(browser, [fourth])
            press(browser, Keys.BACKSPACE, Keys.ENTER)
            continue
        vote(browser, plan[pair["id"]])
    wait(browser, "!document.getElementById('end').hidden")
    assert "all 6 pairs" in browser.find_element("id", "summary").text
    press(browser, Keys.ENTER)  # The button to download has the focus.
    wait_for = time.monotonic() + PATIENCE_SECONDS
    while not (files := list(browser.saved.glob("votes-*-Anna.json"))):
        assert time.monotonic() < wait_for
        time.sleep(0.05)

    cast = {
        (vote["pair"], vote["question"]): vote["choice"]
        for vote in json.loads(files[0].read_text())["votes"]
    }
    assert cast == {
        (pair, question): side
        for pair, sides in plan.items()
        for question, side in zip(questions, sides, strict=True)
    }
    code, out, err = run("study", "tally", "--key", key_file, "--json", *files)
    assert code == 0, err
    opened = json.loads(key_file.read_text())["pairs"]
    for rival, row in json.loads(out)["table"].items():
        of_rival = [pair for pair in opened if rival in opened[pair].values()]
        assert len(of_rival) == len(PROMPTS)
        for question, found in row.items():
            won = [opened[pair][cast[pair, question]] == "ours" for pair in of_rival]
            assert found["percent"] == pytest.approx(100 * np.mean(won))


def test_a_prompt_is_shown_as_text(browser, study):
    page, _ = study
    show(browser, page, "wide")
    press(browser, "Ben", Keys.ENTER)
    texts = {}
    for pair in shown_data(page)["pairs"]:
        script = "document.getElementById('prompt').textContent === arguments[0]"
        wait(browser, script, pair["prompt"])
        prompt = browser.find_element("id", "prompt")
        texts[prompt.text] = prompt.get_property("childElementCount")
        vote(browser, "abab")
    assert texts == {prompt: 0 for prompt in PROMPTS} and HOSTILE in texts
    assert browser.title == "Which video is better?"
    assert len(browser.find_elements("tag name", "script")) == 3


@pytest.mark.parametrize("size", SIZES)
def test_all_of_a_pair_is_seen_at_once(browser, study, size):
    show(browser, study[0], size)
    assert_fits(browser)
    press(browser, "Carla", size, Keys.ENTER)
    videos = "[...document.querySelectorAll('video')]"
    wait(browser, f"{videos}.every((one) => one.currentTime > 0 && !one.paused)")
    assert_fits(browser)
    assert_from_files(browser)
    script = """
      const all = [...document.querySelectorAll("video, fieldset, nav button")];
      const boxes = all.map((one) => one.getBoundingClientRect());
      return boxes.map((box) => [box.left, box.top, box.right, box.bottom]);"""
    boxes = browser.execute_script(script)
    assert len(boxes) == 2 + 4 + 3
    width, height = SIZES[size]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    (_, _, end_a, low_a), (start_b, _, _, low_b), *below = boxes
    assert end_a <= start_b and low_a == low_b and below[0][1] >= low_a


# --- The gallery ----------------------------------------------------------------------

COUNTS = """
  const count = (what) => document.querySelectorAll(what).length;
  return [count("*"), count("video"), count(".card")];"""
IN_VIEW = """[...document.querySelectorAll(".card")].filter((card) => {
  const box = card.getBoundingClientRect();
  return box.bottom > 0 && box.top < innerHeight;
}).map((card) => card.textContent)"""


@pytest.mark.parametrize("size", SIZES)
def test_few_of_2000_clips_are_held_wherever_the_page_is_scrolled(
    browser, gallery, size
):
    show(browser, gallery, size)
    seen = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        script = "scrollTo(0, arguments[0] * document.documentElement.scrollHeight)"
        browser.execute_script(script, share)
        seen.append(tuple(wait(browser, f"({IN_VIEW}).length && {IN_VIEW}")))
        # Those left behind are emptied soon after.
        wait(browser, "document.querySelectorAll('.card').length <= 48")
        nodes, videos, cards = browser.execute_script(COUNTS)
        assert nodes < 800 and videos == 0 and cards >= len(seen[-1])
    assert len(set(seen)) == 5
    assert "0" in seen[0][0] and any("999" in text for text in seen[-1])
    assert_fits(browser)
    assert_from_files(browser)


@pytest.mark.parametrize("size", SIZES)
def test_clips_play_under_the_pointer_and_with_the_focus_only(browser, gallery, size):
    show(browser, gallery, size)
    wait(browser, "document.querySelectorAll('.card').length > 1")
    cards = browser.find_elements("css selector", ".card")
    playing = "[...document.querySelectorAll('video')].filter((one) => !one.paused)"
    inside = f"{playing}.filter((one) => arguments[0].contains(one)).length"
    ActionChains(browser).move_to_element(cards[0]).perform()
    wait(browser, f"{inside} === 2", cards[0])
    browser.execute_script("arguments[0].focus()", cards[1])
    wait(browser, f"{inside} === 2", cards[1])
    assert browser.execute_script(COUNTS)[1] == 2
    browser.execute_script("document.activeElement.blur()")
    assert browser.execute_script(COUNTS)[1] == 0

    browser.execute_script("arguments[0].focus()", cards[1])
    press(browser, Keys.ENTER)
    wait(browser, "document.getElementById('dialog').open")
    assert browser.find_element("id", "dialog-prompt").text == f"{HOSTILE} 1"
    assert browser.execute_script(COUNTS)[1] == 2
    press(browser, Keys.ESCAPE)
    wait(browser, "!document.querySelector('dialog video')")


def test_the_filter_answers_at_once_and_runs_can_be_left_out(browser, gallery):
    show(browser, gallery, "wide")
    count = browser.find_element("id", "count")
    assert count.text == "1001 prompts"  # One is another in each run.
    browser.find_element("id", "filter").send_keys("SCRIPT> 99")
    # Nothing is waited for: the answer is there when the key was.
    # 1, 4, 7, ... have this prompt; of these 199, 499, 799 and 991, 994, 997 match.
    assert count.text == "6 of 1001"
    wait(browser, "document.querySelectorAll('.card').length === 6")
    assert len(browser.find_elements("css selector", ".card .clip")) == 12
    browser.find_element("css selector", "#runs label").click()
    wait(browser, "document.querySelectorAll('.card .clip').length === 6")
    browser.find_element("id", "filter").send_keys(" nothing")
    assert browser.find_element("id", "none").is_displayed()
    assert not browser.find_elements("css selector", ".card")


def test_metrics_of_runs_are_shown_side_by_side(browser, gallery):
    show(browser, gallery, "wide")
    browser.find_element("css selector", "#metrics summary").click()
    rows = browser.find_elements("css selector", "#table tr")
    assert [row.text for row in rows] == [
        "Metric step_10 step_20",
        "fvd result.json 10 5",
    ]
