"""The pictures of docs/serving.md, taken from a served demo with headless Chromium.

noterec demo --images --out demo
noterec serve demo/index --model demo/model --notes demo/platform --pairs demo/pairs.parquet --report demo/report
python docs/screenshots.py http://127.0.0.1:8000 [NOTE_ID]
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

OUT = Path(__file__).parent / "images"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main() -> None:
    address, note = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "n000000"
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)

        def shoot(
            name: str, path: str, *, dark: bool = False, width: int = 1280, do: Callable[[Page], None] | None = None
        ) -> None:
            scheme = "dark" if dark else "light"
            page = browser.new_page(viewport={"width": width, "height": 860}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(address + path)
            page.wait_for_load_state("networkidle")
            if do is not None:
                do(page)
            page.wait_for_timeout(300)
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture = picture.convert("RGB")
            if name != "map":  # its colours mean something
                picture = picture.quantize(256)
            picture.save(OUT / f"explorer-{name}.png", optimize=True)
            page.close()

        shoot("neighbours", f"/?note={note}")
        shoot("phone", f"/?note={note}&candidates=new", dark=True, width=390)
        shoot("map", f"/map?note={note}", do=walk)
        shoot("try", "/try", do=draft)
        shoot("evaluation", "/evaluation", dark=True)
        browser.close()


def walk(page: Page) -> None:
    page.wait_for_selector("#map[data-ready]")
    page.locator("#map").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")


def draft(page: Page) -> None:
    page.fill("#draft-title", "First rope weekend")
    page.fill("#draft-content", "Learned to belay and to trust the granite. The harness held, the crag was dry.")
    page.fill("#draft-hashtags", "#climbing #belay")
    page.click(".draft .primary")
    page.wait_for_selector("#tried .grid, #tried .problem")


if __name__ == "__main__":
    main()
