"""A report as it is read: in a real browser, by mouse, by keyboard, on a phone, in the dark, on paper, offline."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from onecycle import Run, report
from onecycle.reports.record import Record, records

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

Open = Callable[..., "Page"]
PHONE = {"width": 390, "height": 844}
LUMINANCE = """
  const luminance = (channels) => {
    const [r, g, b] = channels.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
"""
# Every text, with its contrast (WCAG) to the nearest background that is not transparent.
TEXTS = f"""
() => {{
  {LUMINANCE}
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {{
    const element = node.parentElement;
    const text = node.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("script, style, button:disabled")) continue;
    let ground = element;
    while ((channels(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
    const [ink, paper] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
    found.push([text, ratio(channels(ink).slice(0, 3), channels(paper).slice(0, 3))]);
  }}
  return found;
}}
"""
# The contrast of each colour of a curve to the panel that it is drawn on.
CURVES = f"""
(names) => {{
  {LUMINANCE}
  const style = getComputedStyle(document.documentElement);
  const channels = (name) => {{
    const hex = style.getPropertyValue(`--${{name}}`).trim();
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  }};
  return names.map((name) => [name, ratio(channels(name), channels("panel"))]);
}}
"""
COLOURS = ["lr", "momentum", "train", "val", "metric", "raw", *(f"run-{run}" for run in range(6))]
# How many pixels of a canvas have a colour, within a little.
PIXELS = """
(canvas, hex) => {
  const wanted = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) {
    count += data[at + 3] > 200 && wanted.every((part, channel) => Math.abs(part - data[at + channel]) < 12);
  }
  return count;
}
"""


@pytest.fixture
def opened(browser: Browser, runs: dict[str, Path], tmp_path: Path) -> Iterator[Open]:
    """Open the report of runs; at the end nothing may have been said on the console or asked of any network."""
    contexts, faults = [], []

    def open_report(*which: str | Run, **settings: Any) -> Page:
        path = report(*(runs[run] if isinstance(run, str) else run for run in which), out=tmp_path / "report.html")
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        allowed = (path.as_uri(), "data:")
        page.on("request", lambda request: request.url.startswith(allowed) or faults.append(f"asked: {request.url}"))
        page.goto(path.as_uri())
        page.wait_for_selector("canvas", state="attached")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert faults == []


def plot(page: Page, identity: str) -> Locator:
    """Return a chart's drawing area with its axes, scrolled into view."""
    found = page.locator(f"#{identity} .plot")
    found.scroll_into_view_if_needed()
    return found


def point_at(page: Page, identity: str, part: float) -> dict[str, str]:
    """Move the mouse to a part of the width of a chart; return what the tip says."""
    box = plot(page, identity).locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + part * (box["width"] - 1), box["y"] + box["height"] / 2)
    tip = page.locator(f"#{identity} .tip")
    tip.wait_for(state="visible")
    lines = {
        line.locator("span").inner_text(): line.locator("strong").inner_text() for line in tip.locator("div").all()
    }
    return {"x": tip.locator("b").inner_text()} | lines


def step_of(tip: dict[str, str]) -> int:
    return int(tip["x"].removeprefix("optimizer step ").replace(",", ""))


def drag(page: Page, identity: str, start: float, end: float) -> None:
    """Drag the mouse over a stretch of a chart's width."""
    box = plot(page, identity).locator(".u-over").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + (start + end) / 2 * box["width"], middle)
    page.mouse.move(box["x"] + end * box["width"], middle)
    page.mouse.up()


@pytest.mark.parametrize(
    "kinds",
    [("picked",), ("given",), ("diverged",), ("killed",), ("started",), ("picked", "given", "diverged", "started")],
)
def test_nothing_goes_wrong_and_nothing_is_asked_for(opened: Open, kinds: tuple[str, ...]):
    """No word on the console and no request, with every part open and every chart drawn."""
    page = opened(*kinds)
    for part in page.locator("details").all():
        part.evaluate("part => { part.open = true; }")
    page.wait_for_function("document.querySelectorAll('canvas').length === document.querySelectorAll('figure').length")


def test_the_numbers_are_those_of_the_run(opened: Open, runs: dict[str, Path]):
    """Tiles and table of rules, against the run's own history and its curve's own suggestions."""
    page = opened("picked")
    (record,) = records([runs["picked"]])
    assert record.curve is not None
    last = record.history.row(-1)
    tiles = [tile.inner_text().split("\n") for tile in page.locator(".tiles > div").all()]
    assert [float(number.replace(",", "")) for _, number, _ in tiles] == pytest.approx(
        [record.max_lr, 200, last["loss"], last["val_loss"], last["val_accuracy"]], rel=5e-3
    )
    for row in page.locator(".rules tbody tr").all():
        _, rule, lr, _ = row.locator("td, th").all_inner_texts()
        assert float(lr) == pytest.approx(record.curve.suggest(rule).lr, rel=5e-3)


@pytest.mark.parametrize("part", [0.0, 0.33, 0.8, 1.0])
def test_hovering_shows_the_values_of_the_step(opened: Open, runs: dict[str, Path], part: float):
    """The loss of the step under the mouse, its lr and momentum, and the nearest validation with its step."""
    page = opened("picked")
    (record,) = records([runs["picked"]])
    tip = point_at(page, "loss-0", part)
    step = step_of(tip)
    assert step == pytest.approx(1 + part * 199, abs=1)
    row = record.history.row(step - 1)
    assert float(tip["training, each step"]) == pytest.approx(row["loss"], rel=1e-3)
    (name,) = [name for name in tip if name.startswith("validation")]
    validated = int(name.removeprefix("validation at ")) if name != "validation" else step
    assert float(tip[name]) == pytest.approx(record.history.row(validated - 1)["val_loss"], rel=1e-3)
    tip = point_at(page, "schedule-0", part)
    row = record.history.row(step_of(tip) - 1)
    assert float(tip["learning rate"]) == pytest.approx(row["lr"], rel=1e-3)
    assert float(tip["momentum"]) == pytest.approx(row["momentum"], rel=1e-3)


def test_dragging_zooms_all_charts_over_steps(opened: Open):
    """To the stretch that was dragged over; a double click shows all again."""
    page = opened("picked")
    drag(page, "loss-0", 0.25, 0.5)
    for identity in ("loss-0", "schedule-0", "accuracy-0"):
        assert step_of(point_at(page, identity, 0.0)) == pytest.approx(51, abs=22 if identity == "accuracy-0" else 2)
    assert step_of(point_at(page, "loss-0", 1.0)) == pytest.approx(100, abs=2)
    plot(page, "loss-0").locator(".u-over").dblclick()
    assert step_of(point_at(page, "loss-0", 0.0)) == 1
    assert step_of(point_at(page, "loss-0", 1.0)) == 200


def test_the_range_test_zooms_by_the_logarithm(opened: Open, runs: dict[str, Path]):
    """Half of its width is half of its decades, down to less than one, where ticks must still be found."""
    page = opened("picked")
    (record,) = records([runs["picked"]])
    assert record.curve is not None
    first, last = record.curve.lr[[0, -1]]
    page.get_by_role("button", name="Range test: zoom in").click()
    left = float(point_at(page, "range-0", 0.0)["x"].removeprefix("learning rate "))
    assert left == pytest.approx(first**0.75 * last**0.25, rel=0.3)
    for _ in range(8):
        page.get_by_role("button", name="Range test: zoom in").click()
    page.get_by_role("button", name="Range test: show all").click()
    assert float(point_at(page, "range-0", 0.0)["x"].removeprefix("learning rate ")) == pytest.approx(first, rel=1e-3)


def test_every_range_of_losses_has_ticks(opened: Open, record: Callable[..., Record]):
    """Also on a logarithmic axis that begins right below a power of ten, where uPlot's own ticks never end."""
    one = record(loss=np.geomspace(0.314, 0.1194, 50).tolist(), lr=[0.1] * 50)
    page = opened(Run(0.1, one.cycle, None, None, one.history, "finished"))
    log = page.get_by_role("button", name="Loss: logarithmic height")
    log.click()
    assert log.get_attribute("aria-pressed") == "true"
    assert step_of(point_at(page, "loss-0", 1.0)) == 50


def test_the_keyboard_reads_and_zooms(opened: Open, runs: dict[str, Path]):
    """Tab reaches a chart; arrows go from step to step and are read out; + zooms, 0 shows all."""
    page = opened("picked")
    (record,) = records([runs["picked"]])
    chart = plot(page, "loss-0")
    spoken = page.locator("#loss-0 output")
    page.locator("#loss-0 .zoom button").last.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    while not chart.evaluate("box => document.activeElement === box"):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    spoken_of = re.match(r"optimizer step 189: training, each step ([\d.e-]+),", spoken.text_content() or "")
    assert spoken_of
    assert float(spoken_of[1]) == pytest.approx(record.history["loss"][188], rel=1e-3)
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert step_of(point_at(page, "loss-0", 0.0)) > 100
    page.keyboard.press("0")
    assert step_of(point_at(page, "loss-0", 0.0)) == 1


def test_a_curve_can_be_hidden(opened: Open):
    """By its name above the chart; the tip leaves it out."""
    page = opened("picked")
    name = page.locator("#loss-0 .legend button", has_text="smoothed")
    name.click()
    assert name.get_attribute("aria-pressed") == "false"
    assert "training, smoothed" not in point_at(page, "loss-0", 0.5)
    name.click()
    assert "training, smoothed" in point_at(page, "loss-0", 0.5)


def test_a_row_lights_its_pin(opened: Open):
    """The number in the picture, of the rule in the table."""
    page = opened("picked")
    page.locator(".rules tbody tr").nth(4).hover()
    assert page.locator("#range-0 .pins .lit").all_inner_texts() == ["5"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_made_out(opened: Open, scheme: str):
    """Text by 4.5 to 1, curves by 3 to 1 (WCAG AA), on a ground that is light or dark as asked; curves are drawn."""
    page = opened("picked", "given", "diverged", "started", color_scheme=scheme)
    for part in page.locator("details").all():
        part.evaluate("part => { part.open = true; }")
    page.wait_for_function("document.querySelectorAll('canvas').length === document.querySelectorAll('figure').length")
    texts = page.evaluate(TEXTS)
    assert len(texts) > 300
    assert [text for text in texts if text[1] < 4.5] == []
    assert [curve for curve in page.evaluate(CURVES, COLOURS) if curve[1] < 3] == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 3 * 128) == (scheme == "light")
    colour = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--train').trim()")
    assert page.locator("#loss-0 canvas").evaluate(PIXELS, colour) > 200


def test_the_dark_may_fall_while_one_reads(opened: Open):
    """The charts are drawn anew, in colours for the dark, and stay where they were zoomed to."""
    page = opened("picked")
    drag(page, "loss-0", 0.25, 0.5)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(100)
    colour = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--train').trim()")
    assert page.locator("#loss-0 canvas").evaluate(PIXELS, colour) > 200
    assert step_of(point_at(page, "loss-0", 0.0)) == pytest.approx(51, abs=2)


@pytest.mark.parametrize("kinds", [("picked",), ("diverged",), ("picked", "given", "hostile")])
def test_a_phone_need_not_scroll_sideways(opened: Open, kinds: tuple[str, ...]):
    """390 pixels hold the page, with every part open; what is wider scrolls within itself."""
    page = opened(*kinds, viewport=PHONE, has_touch=True, is_mobile=True)
    for part in page.locator("details").all():
        part.evaluate("part => { part.open = true; }")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("window.visualViewport.width") == 390


def test_a_finger_reads_values(opened: Open):
    """A tap shows them, and they stay until one taps elsewhere."""
    page = opened("picked", viewport=PHONE, has_touch=True, is_mobile=True)
    plot(page, "loss-0").locator(".u-over").tap()
    tip = page.locator("#loss-0 .tip")
    assert "optimizer step 10" in tip.inner_text()
    page.locator("#loss-0 h3").tap()
    assert not tip.is_visible()


def test_html_in_names_is_shown_as_text(opened: Open, runs: dict[str, Path]):
    """In titles, tables, legends and tips; none of it runs."""
    page = opened("hostile", "given")
    name = runs["hostile"].name
    assert name in page.locator("#lr-all .legend").inner_text()
    assert name in page.locator(".outcomes").inner_text()
    assert name in point_at(page, "lr-all", 0.5)
    assert page.evaluate("typeof injected") == "undefined"
    assert page.locator("img").count() == 0


def test_runs_are_compared(opened: Open, runs: dict[str, Path]):
    """A row for each run with its own numbers, and a link that opens its part."""
    kinds = ("picked", "given", "diverged")
    page = opened(*kinds)
    rows = [row.locator("td, th").all_inner_texts() for row in page.locator(".outcomes tbody tr").all()]
    for cells, record in zip(rows, records([runs[kind] for kind in kinds]), strict=True):
        assert cells[0].strip() == record.name
        assert cells[1] == record.status
        assert float(cells[2]) == pytest.approx(record.max_lr, rel=5e-3)
        assert float(cells[6]) == pytest.approx(record.history["loss"][-1], rel=1e-3)
    page.get_by_role("link", name="given").click()
    assert page.locator("#run-1 .tiles").is_visible()
    assert not page.locator("#run-0 .tiles").is_visible()
    tip = point_at(page, "loss-all", 0.4)
    assert {"picked", "given"} <= tip.keys()


def test_paper_shows_everything_in_the_light(opened: Open, tmp_path: Path):
    """All parts are opened for printing and closed again; white paper, also from a dark screen."""
    page = opened("picked", "given", color_scheme="dark")
    before = page.locator("details:not([open])").count()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--panel').trim()") == "#ffffff"
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == before
    assert len(page.pdf()) > 50_000


def test_without_scripts_the_tables_are_there(opened: Open, runs: dict[str, Path], browser: Browser, tmp_path: Path):
    """And the page says what is missing."""
    path = report(runs["picked"], out=tmp_path / "plain.html")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert "does not run" in page.locator("noscript p").inner_text()
    assert page.locator(".rules tbody tr").count() == 8
    context.close()
