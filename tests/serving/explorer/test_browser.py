"""The explorer in a headless Chromium: by keyboard, by pointer, on a phone, with hostile notes, and with nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noterec.config import ServeConfig
from noterec.serving.explorer.catalogue import Catalogue
from noterec.serving.explorer.related import Related
from noterec.serving.service import Service
from tests.model.test_seeing import seeing
from tests.serving.explorer.conftest import HOSTILE, make_world, png
from tests.serving.http.test_server import running

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

expect = playwright.expect
SECONDS = 10


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory, backbone_folder: Callable[[str], Path], report: Path
) -> Iterator[str]:
    """Of an explorer with everything, its model one that sees."""
    encoder = seeing(backbone_folder("qwen3"))
    world = make_world(tmp_path_factory.mktemp("browser"), encoder)
    catalogue = Catalogue.open(world / "data")
    related = Related.open(world / "pairs.parquet", dataset=world / "data")
    config = ServeConfig(batch_wait_ms=1)
    service = Service(
        world / "index", encoder=encoder, catalogue=catalogue, related=related, report=report, config=config
    )
    with running(service) as (port, _):
        yield f"http://127.0.0.1:{port}"
    service.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def wide(browser: Any, address: str) -> Iterator[Any]:
    yield from watched(browser, address, viewport={"width": 1280, "height": 800})


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Any]:
    yield from watched(browser, address, viewport={"width": 360, "height": 740}, has_touch=True, color_scheme="dark")


def watched(browser: Any, address: str, **given: Any) -> Iterator[Any]:
    """A page on which nothing may go wrong unseen: no error, no message, no request to another host, no violated policy."""
    context = browser.new_context(base_url=address, **given)
    context.set_default_timeout(1000 * SECONDS)
    expect.set_options(timeout=1000 * SECONDS)
    page = context.new_page()
    wrong: list[str] = []
    page.expected = []  # messages of the console that a test asks for
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on(
        "request", lambda request: None if request.url.startswith((address, "blob:")) else wrong.append(request.url)
    )
    page.add_init_script(
        "addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective))"
    )
    yield page
    assert [text for text in wrong if not any(re.search(known, text) for known in page.expected)] == []
    context.close()


def query(page: Any) -> str:
    return str(page.evaluate("location.pathname + location.search"))


def test_search_by_keyboard(wide: Any) -> None:
    wide.goto("/?note=n00&k=6")
    wide.keyboard.press("/")
    expect(wide.locator("#q")).to_be_focused()
    wide.keyboard.type("climbing", delay=20)
    options = wide.locator("#suggestions [role=option]")
    expect(options).to_have_count(8)
    expect(wide.locator("#q")).to_have_attribute("aria-expanded", "true")
    wide.keyboard.press("ArrowDown")
    wide.keyboard.press("ArrowDown")
    wide.keyboard.press("ArrowUp")
    expect(wide.locator("#q")).to_have_attribute("aria-activedescendant", "option-0")
    expect(options.nth(0)).to_have_attribute("aria-selected", "true")
    wide.keyboard.press("Enter")
    expect(wide.locator("h1")).to_have_text("A climbing day, number 3")
    assert query(wide) == "/?note=n03&k=6"  # what was chosen stays
    wide.locator("#q").fill("no such words")
    expect(wide.locator("#suggestions")).to_contain_text("No title, hashtag or id has all of this")
    wide.keyboard.press("Escape")
    expect(wide.locator("#suggestions")).to_be_hidden()
    wide.keyboard.press("Enter")
    expect(wide.locator("h1")).to_contain_text("No note for")
    wide.locator("#q").fill("n07")
    wide.keyboard.press("Enter")
    expect(wide.locator("h1")).to_have_text("A climbing day, number 7")


def test_walking_and_going_back(wide: Any) -> None:
    wide.goto("/?note=n00")
    wide.evaluate("globalThis.same = true")
    second = wide.locator(".grid .title a").nth(1)
    name = second.inner_text()
    wide.evaluate("scrollTo(0, 300)")
    second.click()
    expect(wide.locator("h1")).to_have_text(name)
    expect(wide.locator("#main")).to_be_focused()
    expect(wide.locator("#says")).to_contain_text("12 neighbours")
    assert wide.evaluate("scrollY") == 0
    third = wide.locator(".grid .title a").first
    third.focus()
    wide.keyboard.press("Enter")
    expect(wide.locator("h1")).not_to_have_text(name)
    wide.go_back()
    expect(wide.locator("h1")).to_have_text(name)
    wide.go_back()
    expect(wide.locator("h1")).to_have_text("A coffee day, number 0")
    assert query(wide) == "/?note=n00"
    assert wide.evaluate("scrollY") == 300
    wide.go_forward()
    expect(wide.locator("h1")).to_have_text(name)
    assert wide.evaluate("globalThis.same") is True  # the page was never loaded anew


def test_what_is_chosen_is_in_the_address(wide: Any) -> None:
    wide.goto("/?note=n01")
    wide.select_option("#k", "24")
    expect(wide.locator("#found-title")).to_contain_text("24 neighbours")
    expect(wide.locator("#k")).to_be_focused()
    wide.select_option("#category", "Food")
    expect(wide.locator("#found-title")).to_contain_text("in Food")
    wide.get_by_text("new only").click()
    expect(wide.locator("#found-title")).to_contain_text("among new notes in Food")
    expect(wide.locator(".grid .card")).to_have_count(3)
    wide.get_by_label("one per author").check()
    wide.get_by_label("collapse reposts").check()
    expect(wide.get_by_label("collapse reposts")).to_be_focused()
    expect(wide.locator(".reset")).to_be_visible()
    wide.locator("#diversity").focus()
    wide.keyboard.press("ArrowRight")
    wide.wait_for_url("**diversity=0.1**")
    shared = query(wide)
    for part in ("note=n01", "k=24", "candidates=new", "category=Food", "author=1", "reposts=1", "diversity=0.1"):
        assert part in shared
    seen = wide.locator(".grid").inner_text()
    wide.goto(shared)
    assert wide.locator(".grid").inner_text() == seen
    wide.locator(".reset").click()
    expect(wide.locator("#found-title")).to_have_text("12 neighbours from the cache")
    assert query(wide) == "/?note=n01"


def test_a_new_note_with_a_picture(wide: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(png(3, (300, 200)))
    wide.goto("/try")
    wide.get_by_label("Title", exact=True).fill("<b>Rope</b> weekend")
    wide.locator("#draft-hashtags").fill("#climbing, daily")
    wide.set_input_files("#draft-images", tmp_path / "photo.png")
    expect(wide.locator("#previews canvas")).to_have_attribute("aria-label", "photo.png")
    with wide.expect_request("**/explorer/try") as sent:
        wide.get_by_role("button", name="Find neighbours").click()
    expect(wide.locator("#tried .card")).to_have_count(12)
    expect(wide.locator("#says")).to_contain_text("12 neighbours")
    note = sent.value.post_data_json
    assert (
        note["hashtags"] == ["climbing", "daily"] and note["title"] == "<b>Rope</b> weekend" and note["content"] is None
    )
    import base64

    assert [base64.b64decode(image) for image in note["images"]] == [(tmp_path / "photo.png").read_bytes()]
    wide.get_by_role("button", name="Predict").click()
    expect(wide.locator("#written")).to_contain_text("Predicted category")
    wide.locator("#tried .title a").first.click()
    wide.wait_for_url("**/?note=*")


def test_what_is_wrong_with_a_new_note_is_said(wide: Any, tmp_path: Path) -> None:
    wide.expected = ["422"]
    wide.goto("/try")
    wide.get_by_role("button", name="Find neighbours").click()
    expect(wide.get_by_role("alert")).to_contain_text("nothing to read")
    (tmp_path / "page.html").write_text("<script>alert(1)</script>")
    wide.set_input_files("#draft-images", tmp_path / "page.html")
    expect(wide.locator("#previews")).to_contain_text("page.html: no preview")
    wide.get_by_role("button", name="Find neighbours").click()
    expect(wide.get_by_role("alert")).to_contain_text("image 0")
    wide.set_input_files("#draft-images", [tmp_path / "page.html"] * 9)
    wide.get_by_role("button", name="Find neighbours").click()
    expect(wide.get_by_role("alert")).to_contain_text("9 pictures; at most 8")


def test_the_map(wide: Any) -> None:
    wide.expected = ["getImageData"]  # what this test does
    wide.goto("/?note=n03&k=6")
    wide.get_by_role("link", name="Map", exact=True).click()
    canvas = wide.locator("#map[data-ready='46']")
    expect(canvas).to_be_visible()
    assert len({tuple(pixel) for pixel in pixels(wide)}) > 20  # something was drawn
    canvas.focus()
    wide.keyboard.press("ArrowRight")
    expect(wide.locator("#tip")).to_be_visible()
    wide.keyboard.press("Escape")
    expect(wide.locator("#tip")).to_be_hidden()
    # The pointer finds the point of the first neighbour, and a click opens it.
    link = wide.locator(".places a").nth(1)
    name = link.locator(".title").inner_text()
    link.hover()
    expect(wide.locator("#tip strong")).to_have_text(name)
    before = pixels(wide)
    food = wide.get_by_role("button", name="Food 20")
    food.click()
    expect(food).to_have_attribute("aria-pressed", "true")
    assert pixels(wide) != before
    food.click()
    x, y = wide.evaluate(PLACE, 1)
    canvas.hover(position={"x": x, "y": y})
    expect(wide.locator("#tip strong")).to_have_text(name)
    canvas.click(position={"x": x, "y": y})
    expect(wide.locator("h1")).to_have_text(name)


# Where the script puts a place of the list: as it does, from the extent of all points.
PLACE = """async (n) => {
  const data = await (await fetch('/explorer/points')).json();
  const links = [...document.querySelectorAll('.places a')];
  const box = document.getElementById('map').getBoundingClientRect();
  const of = (axis) => {
    const all = [...data[axis], ...links.map((link) => Number(link.dataset[axis])), 0];
    const [low, high] = [Math.min(...all), Math.max(...all)];
    return (Number(links[n].dataset[axis]) - low) / (high - low);
  };
  return [22 + of('x') * (box.width - 44), box.height - 22 - of('y') * (box.height - 44)];
}"""


def pixels(page: Any) -> list[list[int]]:
    found: list[list[int]] = page.evaluate(
        """() => {
          const map = document.getElementById('map');
          const data = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
          return Array.from({ length: data.length / 4 }, (_, n) => [...data.slice(4 * n, 4 * n + 4)]).filter((p) => p[3]);
        }"""
    )
    return found


@pytest.mark.parametrize("note_id", HOSTILE)
def test_hostile_notes_are_text_and_break_nothing(phone: Any, note_id: str) -> None:
    from urllib.parse import quote

    for path in ("/", "/map"):
        phone.goto(f"{path}?note={quote(note_id, safe='')}&k=96")
        phone.wait_for_load_state("networkidle")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
        assert "owned" not in phone.title() or phone.title().startswith("<script>")
    phone.goto("/?note=n00&k=96")
    phone.locator(f'.grid .title a[href*="note={quote(note_id, safe="").replace("%20", "+")}&"]').click()
    title = str(HOSTILE[note_id].get("title") or f"note {note_id}")
    expect(phone.locator("h1")).to_contain_text(" ".join(title[:40].split()))
    phone.locator("#q").fill(title[:60])
    expect(phone.locator("#suggestions li").first).to_be_visible()
    assert (
        phone.locator("#suggestions b, #suggestions script, #suggestions img, main script, main b, main u").count() == 0
    )


# Controls that can be seen and that nothing names.
UNNAMED = """[...document.querySelectorAll('input, select, textarea, button, a, canvas')]
  .filter((e) => e.offsetParent && e.type !== 'hidden' && !(e.labels?.length || e.ariaLabel || e.textContent.trim()))
  .map((e) => e.outerHTML)"""


@pytest.mark.parametrize(
    "path", ["/", "/?note=n01", "/map?note=n01", "/try", "/evaluation", "/?q=coffee", "/?q=nothing"]
)
def test_every_page_fits_and_has_its_landmarks(wide: Any, phone: Any, path: str) -> None:
    for page, width in ((wide, 1280), (phone, 360)):
        page.goto(path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for role in ("banner", "main", "contentinfo", "search"):
            expect(page.get_by_role(role)).to_have_count(1)
        expect(page.locator("h1")).to_have_count(1)
        assert page.evaluate(UNNAMED) == []


def test_an_unknown_note(wide: Any) -> None:
    wide.expected = ["404"]
    wide.goto("/?note=nobody")
    expect(wide.locator("h1")).to_have_text("There is no such note")
    wide.get_by_role("link", name="Start again").click()
    expect(wide.locator(".grid .card")).to_have_count(7)


def test_focus_is_seen_and_the_first_tab_skips_to_the_content(wide: Any) -> None:
    wide.goto("/?note=n01")
    wide.keyboard.press("Tab")
    expect(wide.locator(".skip")).to_be_focused()
    expect(wide.locator(".skip")).to_be_in_viewport()
    for _ in range(12):
        wide.keyboard.press("Tab")
        style = "getComputedStyle(document.activeElement.closest('.switch label')?.querySelector('span') ?? document.activeElement)"
        assert wide.evaluate(f"{style}.outlineStyle") != "none"


def test_without_the_script_pages_still_work(browser: Any, address: str) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/?note=n00")
    page.select_option("#k", "6")
    page.get_by_role("button", name="Apply").click()
    assert "k=6" in page.url and page.locator(".grid .card").count() == 6
    page.locator(".grid .title a").first.click()
    assert "k=6" in page.url and "note=n00" not in page.url
    page.locator("#q").fill("climbing")
    page.locator("#q").press("Enter")
    expect(page.locator("h1")).to_contain_text("notes for")
    context.close()


def test_a_service_that_has_gone_is_said(wide: Any) -> None:
    wide.expected = ["ERR_FAILED", "Failed to load"]
    wide.goto("/?note=n00")
    wide.route("**/*", lambda route: route.abort())
    wide.locator(".grid .title a").first.click()
    expect(wide.get_by_role("alert")).to_contain_text("doesn't answer")
    expect(wide.locator("h1")).to_have_text("A coffee day, number 0")
