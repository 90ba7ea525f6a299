# The pictures of the documentation, taken of the running examples: `make pictures`.

from __future__ import annotations

import base64
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser import GAME, By, Page, bookshop, chromium_in, log_in, running  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"


def take(page: Page, name: str, width: int, height: int) -> None:
    """What the browser shows, as pictures/NAME.webp."""
    page.driver.execute_script(
        "document.activeElement.blur(); document.documentElement.style.scrollbarWidth = 'none'"
    )
    shot = page.driver.execute_cdp_cmd(
        "Page.captureScreenshot",
        {
            "format": "webp",
            "quality": 80,
            "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
        },
    )
    path = PICTURES / f"{name}.webp"
    path.write_bytes(base64.b64decode(shot["data"]))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size >> 10} KiB")


def ask(url: str, method: str = "GET") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, method=method)) as response:
        body: bytes = response.read()
        return body


def game(folder: Path) -> AbstractContextManager[str]:
    command = [sys.executable, str(GAME / "manage.py"), "demo", "--listen", "127.0.0.1:0"]
    return running(command, folder, FINICKY_WHISKERS_STATE=str(folder / "state"))


def of_the_game(page: Page, site: str) -> None:
    page.size(1120, 760)
    page.open(f"{site}/play/")
    page.wait(lambda: page.number("#instances") >= 4, "the page")
    page.click("#start")
    page.wait(lambda: page.scene == "play", "the round")
    for points in range(10, 90, 10):
        wish = page.text("#wish-name")
        page.click(f'.treat[data-treat="{wish}"]')
        page.wait(lambda points=points: page.number("#points") == points, f"{points} points")
    time.sleep(0.7)  # the cat has swallowed
    take(page, "game", 1120, 620)
    for _ in range(50):
        for method, path in (
            ("POST", "session"),
            ("GET", "highscore"),
            ("GET", "play/cat.svg"),
            ("GET", "go"),
        ):
            ask(f"{site}/{path}", method)
        identity = json.loads(ask(f"{site}/session", "POST"))["id"]
        ask(f"{site}/tally?id={identity}&n=0&treat=fish", "POST")
        ask(f"{site}/score?id={identity}")
    page.open(f"{site}/live")
    page.wait(lambda: page.driver.find_elements(By.CSS_SELECTOR, "[data-component=tally] rect"), "the meters")
    take(page, "live", 1120, 748)


def of_the_admin(page: Page, site: str) -> None:
    page.size(1120, 900)
    log_in(page, site)
    for number in range(1, 13):
        for path in ("/api/books", f"/api/books/{number}", "/api/isbn?number=978-0-306-40615-7"):
            ask(site + path)
    page.open(f"{site}/admin/wasm_gateway/dial/")

    def counted() -> bool:
        page.driver.refresh()
        time.sleep(0.5)
        return "Beside the view" in page.text("#component-books")

    page.wait(counted, "the counts of the ledger")
    shown = page.driver.find_element(By.ID, "component-books").rect
    take(page, "admin", 1120, int(shown["y"] + shown["height"]) + 20)


SCENES: list[tuple[Callable[[Path], AbstractContextManager[str]], Callable[[Page, str], None]]] = [
    (game, of_the_game),
    (bookshop, of_the_admin),
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, chromium_in(Path(folder, "chromium")) as driver:
        for number, (serve, show) in enumerate(SCENES):
            place = Path(folder, str(number))
            place.mkdir()
            with serve(place) as site:
                show(Page(driver), site)


if __name__ == "__main__":
    main()
