"""The lab in a real browser: every experiment on every model that ships, bad input, keys, labels, memory."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SILENCE = 500
"""Milliseconds in which a clock that runs would have ticked six times."""


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def choose(page: Page, label: str, option: str) -> None:
    """Choose an option, unless it is chosen already."""
    box = page.get_by_label(label, exact=True)
    if box.input_value() == option:
        return
    box.click()
    options = page.locator(f"[id='{box.get_attribute('aria-controls')}']")
    options.get_by_role("option", name=option, exact=True).click()


FIRST = {"sudoku": "..58..9", "chess": "r1bqkb1r/", "prefix-sums": "110100011101"}
"""What the first problem of each shipped model begins with."""


def show(page: Page, model: str, width: int = 1400) -> Page:
    """Show a model as on a new page, and wait until all of the page is about it."""
    page.set_viewport_size({"width": width, "height": 900})
    if page.get_by_label("Model", exact=True).input_value() == model:  # another one in between forgets everything
        show(page, "chess" if model != "chess" else "sudoku", width)
    choose(page, "Model", model)
    page.get_by_role("heading", name=model, exact=True).wait_for()
    if model in FIRST:
        expect(page.get_by_label("Or type one")).to_have_value(re.compile(re.escape(FIRST[model])))
    choose(page, "Pictures", "every iteration")
    return page


def skip_pictures(page: Page) -> None:
    """Show every 20th iteration alone: the same iterations are run, in less time."""
    choose(page, "Pictures", "every 20th iteration")


def ask(page: Page, text: str) -> None:
    box = page.get_by_label("Or type one")
    box.fill(text)
    box.press("Enter")


def iteration(page: Page) -> int:
    return int(page.locator(".iteration b").first.inner_text().replace(",", ""))


def wait_until_iteration(page: Page, least: int) -> None:
    page.wait_for_function(
        "least => Number(document.querySelector('.iteration b').innerText.replace(',', '')) >= least", arg=least
    )


def wait_for_iteration(page: Page, wanted: int) -> None:
    page.wait_for_function("wanted => document.querySelector('.iteration b').innerText === `${wanted}`", arg=wanted)


def found(page: Page, experiment: str) -> str:
    """Wait for what an experiment found, and return it."""
    finding = page.locator(f"[data-finding={experiment}].told")
    finding.wait_for()
    return finding.inner_text()


def alert(page: Page) -> str:
    """Return the one line that the page refuses something with."""
    words = page.get_by_role("alert").inner_text()
    assert "\n" not in words
    return words


def label_of(page: Page, place: int) -> str:
    return page.locator(f"[data-place='{place}']").first.get_attribute("aria-label") or ""


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("model", ["sudoku", "chess", "prefix-sums"])
def test_each_shipped_model_solves_comes_back_and_follows_the_question(shared, model, width):
    page = show(shared, model, width)
    press(page, "▶ Play")
    page.wait_for_selector(".verdict.right")
    press(page, "Pause")
    skip_pictures(page)
    press(page, "Push it")
    assert found(page, "push").startswith("It came back")
    press(page, "Start again")
    expect(page.locator("[data-finding=push].told")).to_have_count(0)
    press(page, "Change the question")
    assert found(page, "change").startswith("The answer followed: ")
    assert "The rules confirm it." in found(page, "change")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out


def test_a_long_run_is_forecast_first_and_leaps_are_drawn_beside_it(shared):
    page = show(shared, "prefix-sums")
    leaps = page.get_by_label("Draw leaps (states extrapolated from the first iterations)")
    leaps.check()
    press(page, "Let it run")
    assert found(page, "run").startswith("Forecast: ")
    wait_until_iteration(page, 500)
    expect(page.locator("[data-finding=run]")).to_contain_text("The forecast was right.")
    expect(page.locator(".curve path.leap")).to_have_count(4)
    expect(page.locator(".plane path.leap")).to_have_count(4)
    leaps.uncheck()


def test_a_random_start_comes_back(shared):
    page = show(shared, "chess")
    skip_pictures(page)
    press(page, "Random start")
    assert found(page, "push").startswith("It came back")


def test_beside_a_model_without_recall_one_answer_follows_and_the_other_stays(shared):
    page = show(shared, "prefix-sums")
    choose(page, "Compare with", "prefix-sums-without-recall")
    page.wait_for_selector(".stage.lanes-2")
    skip_pictures(page)
    press(page, "Change the question")
    said = found(page, "change")
    assert "prefix-sums: The answer followed: " in said
    assert "prefix-sums-without-recall: The answer stayed: " in said
    choose(page, "Compare with", "none")
    page.wait_for_selector(".stage.lanes-1")


def test_one_steps_and_goes_back_in_time(shared):
    page = show(shared, "sudoku")
    for step in range(1, 4):
        press(page, "One step")
        wait_until_iteration(page, step)
    seen = label_of(page, 1)
    for step in range(4, 9):
        press(page, "One step")
        wait_until_iteration(page, step)
    box = page.locator("#time input[type=number]")
    box.fill("3")
    box.press("Enter")
    wait_for_iteration(page, 3)
    assert label_of(page, 1) == seen
    assert page.locator("#time input[type=range]").get_attribute("max") == "8"
    for typed, nearest in (("-3", 0), ("99999", 8), ("2.5", 2)):
        box.fill(typed)
        box.press("Enter")
        wait_for_iteration(page, nearest)
        expect(box).to_have_value(f"{nearest}")


def test_a_picture_that_comes_after_a_newer_one_is_replaced(shared):
    """The answer to the first of two clicks is held back until the answer to the second one is on the page."""
    page = show(shared, "sudoku")
    held = []

    def hold(route):
        answer = route.fetch()
        held.append((route, answer)) if not held else route.fulfill(response=answer)

    page.route("**/run/predict*", hold)
    press(page, "One step")
    while not held:
        page.wait_for_timeout(10)
    press(page, "One step")
    wait_for_iteration(page, 2)
    route, answer = held[0]
    with page.expect_request("**/run/predict*") as asked_again:
        route.fulfill(response=answer)
    asked_again.value.response()
    wait_for_iteration(page, 2)
    page.unroute_all()


def test_a_sudoku_is_typed_in_by_clicks_and_keys(shared):
    page = show(shared, "sudoku")
    ask(page, PUZZLE)
    expect(page.locator("[data-place='0']")).to_have_text("5")
    page.locator("[data-place='2']").click()
    page.keyboard.press("4")
    page.wait_for_selector("[data-place='2'].given")
    assert page.evaluate("document.activeElement.dataset.place") == "2"  # one goes on where one was
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.place") == "10"
    page.keyboard.press("7")
    page.wait_for_selector("[data-place='10'].given")
    page.keyboard.press("Delete")
    page.wait_for_selector("[data-place='10'].empty")
    page.locator("[data-place='3']").click()
    page.locator(".pad [data-key='6']").click()
    page.wait_for_selector("[data-place='3'].given")
    assert page.get_by_label("Or type one").input_value() == PUZZLE[:2] + "46" + PUZZLE[4:]


def test_a_piece_is_moved_by_two_clicks_and_a_bit_is_flipped_by_one(shared):
    page = show(shared, "chess")
    page.locator("[data-place='39']").click()
    page.locator("[data-place='31']").click()
    expect(page.locator("[data-place='31']")).to_have_attribute("aria-label", "h4: white queen")
    show(page, "prefix-sums")
    before = page.get_by_label("Or type one").input_value()
    page.locator("[data-place='3']").click()
    expect(page.get_by_label("Or type one")).to_have_value(before[:3] + "10"[int(before[3])] + before[4:])


REFUSALS = {
    "sudoku": [
        ("12", "2 cells were given, expected 81"),
        ("55" + PUZZLE[2:], "no grid can hold this puzzle: row 1 holds the digit 5 more than once"),
        ("1" + PUZZLE[1:], "the puzzle has no solution"),
    ],
    "chess": [
        ("6k1/5ppp/8/8/8/8/5PPP/3R2K1 b - - 0 1 x", "7 fields were given, expected the 6 of a FEN"),
        ("6k1/5ppp/8/8/8/8/5PPP/3R4 w - - 0 1", "white has no king"),
    ],
    "prefix-sums": [("", "no bits were given"), ("01a", "'a' at place 3 is not a bit")],
    "letters": [("", "no text was given"), ("xylophone", "'x' is not a letter of this model")],
    "language": [(" ", "no text was given"), ("two minus", "'minus' is not a word of this model")],
}


@pytest.mark.parametrize("model", REFUSALS)
def test_a_mistyped_problem_is_one_clear_line(shared, model):
    page = show(shared, model)
    for text, refusal in REFUSALS[model]:
        before = page.locator(".stage").inner_text()
        ask(page, text)
        expect(page.get_by_role("alert")).to_contain_text(refusal)
        assert "\n" not in alert(page)
        assert page.locator(".stage").inner_text() == before
    press(page, "One step")  # and one goes on
    wait_until_iteration(page, 1)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_the_same_question_is_no_change(shared):
    page = show(shared, "sudoku")
    choose(page, "The other problem", "needs 1 to 3 guesses")
    press(page, "Change the question")
    assert alert(page) == "the other problem is the one that is shown: give another"


def test_everything_has_a_name_and_the_keyboard_reaches_it(shared):
    page = show(shared, "sudoku")
    press(page, "One step")
    wait_until_iteration(page, 1)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, [role=img], [role=grid], [role=gridcell]")]
            .filter((one) => one.offsetParent !== null || one.tagName === "svg")
            .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
                || one.innerText || one.closest("label") || one.labels?.length || one.title))
            .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
    for name in ("▶ Play", "Pause", "One step", "Start again", "Push it", "Change the question", "Let it run"):
        button = page.get_by_role("button", name=name, exact=True)
        button.focus()
        assert page.evaluate("document.activeElement.innerText").strip() == name
    page.get_by_role("button", name="One step", exact=True).focus()
    page.keyboard.press("Enter")
    wait_until_iteration(page, 2)
    assert page.locator("[role=gridcell][tabindex='0']").count() == 1  # one stop of the tabulator for a whole board


def test_the_latest_click_wins(shared):
    page = show(shared, "sudoku")
    press(page, "▶ Play")
    wait_until_iteration(page, 3)
    with page.expect_response("**/run/predict*"):
        press(page, "Pause")
    page.wait_for_timeout(SILENCE)
    stopped = iteration(page)
    page.wait_for_timeout(SILENCE)
    assert iteration(page) == stopped
    press(page, "▶ Play")
    wait_until_iteration(page, stopped + 2)
    ask(page, PUZZLE)
    wait_for_iteration(page, 0)
    page.wait_for_timeout(SILENCE)
    assert iteration(page) == 0


def test_a_users_own_loops_do_the_same(shared):
    page = show(shared, "lab_loops:with_recall")
    skip_pictures(page)
    press(page, "▶ Play")
    page.wait_for_selector(".verdict.right")
    press(page, "Change the question")
    assert found(page, "change").startswith("The answer followed: ")
    show(page, "letters")
    ask(page, "a cab")
    expect(page.locator("[role=gridcell]")).to_have_count(0)
    skip_pictures(page)
    press(page, "▶ Play")
    page.wait_for_function("document.querySelector('.tokens')?.innerText.replaceAll('\\n', '') === 'a cab'")
    show(page, "drawn")
    press(page, "One step")
    expect(page.locator(".board.own em")).to_have_text("largest 0")
    show(page, "lab_loops:exploding")
    press(page, "▶ Play")
    expect(page.locator(".verdict")).to_contain_text("no longer finite")


@pytest.mark.parametrize("width", [1400, 400])
def test_a_text_has_the_next_token_below_each_of_its_tokens(shared, width):
    page = show(shared, "language", width)
    skip_pictures(page)
    ask(page, "is four plus two")
    expect(page.locator("[role=gridcell]")).to_have_text(["is\xa0", "four\xa0", "plus\xa0", "two\xa0"])
    press(page, "▶ Play")
    expect(page.locator("[role=gridcell]")).to_have_text(["isis", "fourfour", "plusplus", "twotwo"])
    assert label_of(page, 1).startswith("token 2, four: next four, ")
    press(page, "Push it")
    assert found(page, "push").startswith("It came back: ")
    assert "all 4 tokens" in found(page, "push")
    choose(page, "The other problem", "four is four is four")  # a longer one
    press(page, "Change the question")
    assert found(page, "change").startswith("The answer followed: ")
    assert "all 5 tokens" in found(page, "change")
    press(page, "Let it run")
    expect(page.locator("[data-finding=run]")).to_contain_text("The forecast was right.")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_a_loop_raises_is_one_line_on_the_page(shared):
    page = show(shared, "lab_loops:failing")
    press(page, "Let it run")
    page.get_by_role("alert").wait_for()
    assert alert(page) == "the loop raised RuntimeError: the cable came loose; the terminal shows where"


def test_a_browser_that_closes_in_the_middle_of_a_run_stops_it(lab, open_page):
    page = open_page()
    choose(page, "Model", "lab_loops:slow")
    page.get_by_role("heading", name="lab_loops:slow", exact=True).wait_for()
    steps = lab.folder / "steps.txt"
    press(page, "▶ Play")
    wait_until_iteration(page, 5)
    page.close()
    deadline = time.monotonic() + 60
    before = -1
    # A step leaves a trace every 20 ms: a while without any means that nothing runs.
    while (now := steps.stat().st_size) != before:
        assert time.monotonic() < deadline, "the run goes on"
        before = now
        time.sleep(SILENCE / 1000)
    assert lab.process.poll() is None


def test_a_hundred_clicks_leave_memory_flat(lab, shared):
    page = show(shared, "sudoku")

    def clicks(rounds: int) -> None:
        """Press buttons four times per round, each as soon as the answer to the one before is on the page."""
        page.evaluate(
            """async (rounds) => {
                const shown = () => Number(document.querySelector(".iteration b").innerText);
                const press = (name, wanted) => new Promise((done) => {
                    const look = () => {
                        if (shown() !== wanted) return;
                        changes.disconnect();
                        done();
                    };
                    const changes = new MutationObserver(look);
                    changes.observe(document.querySelector("#stage"), {childList: true, subtree: true, characterData: true});
                    [...document.querySelectorAll("button")].find((one) => one.innerText.trim() === name).click();
                });
                for (let round = 0; round < rounds; round++) {
                    for (const step of [1, 2, 3]) await press("One step", step);
                    await press("Start again", 0);
                }
            }""",
            rounds,
        )

    clicks(10)
    before = lab.memory()
    clicks(25)
    assert lab.memory() - before < 40 * 2**20


def test_the_benchmark_of_clicks_and_memory(lab, shared, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import lab as benchmark

    page = show(shared, "prefix-sums")
    clicked, spent = benchmark.iterations(page, lab.process.pid, "prefix-sums", 3)
    assert iteration(page) == 13
    assert 0 < clicked.smallest <= clicked.value <= clicked.largest
    assert clicked.bound == 50
    assert spent.value >= 0
    assert benchmark.growth(page, lab.process.pid, 2).quantity == "memory after 8 clicks more"
    assert iteration(page) == 3
