# The example projects in a real browser.

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import (
    CHROMEDRIVER,
    CHROMIUM,
    FLASK_APP,
    GAME,
    By,
    Keys,
    Page,
    WebDriver,
    bookshop,
    chromium_in,
    log_in,
    running,
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and CHROMEDRIVER.exists()), reason="needs chromium, chromedriver"
    ),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with chromium_in(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(chromium: WebDriver) -> Iterator[Page]:
    page = Page(chromium)
    page.size(1280, 860)
    page.complaints()
    yield page
    assert page.complaints() == []  # errors of scripts, refused by the policy, not found
    page.open("about:blank")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(GAME / "manage.py"), "demo", "--listen", "127.0.0.1:0"]
    with running(command, folder, FINICKY_WHISKERS_STATE=str(folder / "state")) as url:
        yield url


def test_a_round(page: Page, site: str) -> None:
    page.open(f"{site}/play/?seconds=60")
    page.wait(lambda: page.text("#no-scores"), "the empty board")
    loaded = page.number("#instances")
    assert loaded >= 4  # page, style, script, board
    page.click("#start")
    page.wait(lambda: page.scene == "play", "the round")

    clicks = (True, True, False, True)  # right or wrong
    points = 0
    for number, right in enumerate(clicks, 1):
        wish = page.text("#wish-name")
        treats = page.driver.find_elements(By.CSS_SELECTOR, ".treat")
        treat = next(t for t in treats if (t.get_dom_attribute("data-treat") == wish) == right)
        page.driver.execute_script("arguments[0].click()", treat)
        points += 10 if right else -5
        page.wait(lambda: page.number("#points") == points, f"{points} points")  # noqa: B023
        assert page.number("#instances") == loaded + 1 + number

    page.driver.execute_script("performance.now = () => 1e9")  # time flies
    page.wait(lambda: page.scene == "over", "the end of the round")
    page.wait(lambda: page.text("#final-right") == str(clicks.count(True)), "the score")
    assert page.number("#final-points") == points
    assert page.number("#final-wrong") == clicks.count(False)

    name = 'Miez <b>"x"</b>'[:16]
    page.type(name, "#name")
    page.type(Keys.ENTER, "#name")
    page.wait(lambda: "mine" in page.driver.page_source, "the board")
    assert page.text("#scores .mine .name") == name
    assert page.number("#scores .mine .points") == points
    assert not page.driver.find_element(By.ID, "enter").is_displayed()

    page.click("#again")
    page.wait(lambda: page.scene == "play", "the next round")
    assert page.number("#points") == 0


def test_a_round_ends_by_itself(page: Page, site: str) -> None:
    page.open(f"{site}/play/?seconds=1")
    page.wait(lambda: page.number("#instances") >= 4, "the page")
    page.click("#start")
    page.wait(lambda: page.scene == "over", "the end of the round")
    page.wait(lambda: page.text("#final-points") == "0", "the score")


def test_the_keyboard_plays_too(page: Page, site: str) -> None:
    page.open(f"{site}/play/?seconds=60")
    page.wait(lambda: page.number("#instances") >= 4, "the page")
    page.driver.find_element(By.ID, "start").send_keys(Keys.ENTER)
    page.wait(lambda: page.scene == "play", "the round")

    names = [t.get_dom_attribute("data-treat") for t in page.driver.find_elements(By.CSS_SELECTOR, ".treat")]
    for points in (10, 20):
        page.type(str(names.index(page.text("#wish-name")) + 1))
        page.wait(lambda points=points: page.number("#points") == points, f"{points} points")
    page.type("7")
    assert page.number("#points") == 20


def test_fits_a_phone(page: Page, site: str) -> None:
    page.size(360, 740)
    for path in ("/play/", "/", "/about", "/live", "/login"):
        page.open(site + path)
        wide = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 360, path


def test_everything_has_a_name(page: Page, site: str) -> None:
    for path in ("/play/", "/", "/live", "/login"):
        page.open(site + path)
        elements = page.driver.find_elements(
            By.CSS_SELECTOR, "button, input:not([type=hidden]), a, img:not([alt=''])"
        )
        assert elements
        for element in elements:
            if element.is_displayed():
                assert element.accessible_name, f"{path}: {element.get_attribute('outerHTML')}"


def test_live_shows_instances_rising(page: Page, site: str) -> None:
    page.open(f"{site}/live")
    page.wait(lambda: page.driver.find_elements(By.CSS_SELECTOR, "[data-component=session]"), "the meters")
    started = "[data-component=session] dd"
    before = page.number(started)

    page.driver.execute_script("for (let i = 0; i < 3; i++) fetch('/session', {method: 'POST'})")
    page.wait(lambda: page.number(started) == before + 3, "three instances more")

    assert page.number("#total") >= before + 3
    assert "µs" in page.text("[data-component=session]")
    bars = page.driver.find_elements(By.CSS_SELECTOR, "[data-component=session] rect")
    assert len(bars) == min(50, before + 3)


def test_login(page: Page, site: str) -> None:
    page.open(f"{site}/login")
    page.type("player", "#id_username")
    page.type("whiskers", "#id_password")
    page.type(Keys.ENTER, "#id_password")
    page.wait(lambda: "Hello, player" in page.driver.page_source, "the home page of who is logged in")
    page.click("nav form button")
    page.wait(lambda: "Hello, player" not in page.driver.page_source, "the home page of anybody")


def test_flask_app(page: Page, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flask", "--app", str(FLASK_APP / "app.py"), "run", "--port", "0"]
    with running(command, tmp_path, FLASK_WASM_GATEWAY_STATE_DIR=str(tmp_path / "state")) as url:
        page.open(f"{url}/")
        page.click("#ask")
        page.wait(lambda: "points" in page.text("#answer"), "the guests")

    assert '"points":0' in page.text("#answer")


@pytest.fixture
def without_scripts(chromium: WebDriver) -> Iterator[None]:
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    yield
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.usefixtures("without_scripts")
def test_dials_are_turned_on_a_page(page: Page, tmp_path: Path) -> None:
    """The admin page of the Django site, by its forms alone."""
    with bookshop(tmp_path) as site:
        log_in(page, site)
        page.click("a[href*=dial]")
        page.wait(lambda: "Wasm routes" in page.text("#content h1"), "no page of dials")

        def turn(name: str, button: str, message: str) -> None:
            page.click(f'[data-name="{name}"] [value={button}]')
            page.wait(lambda: message in page.text(".messagelist"), message)

        def shows(name: str, mode: str) -> None:
            page.wait(lambda: page.text(f'[data-name="{name}"] .mode') == mode, f"{name}: not {mode}")

        stages = {"books": "shadow", "me": "canary", "book": "canary", "isbn": "wasm", "covers": "native"}
        for name, mode in stages.items():
            shows(name, mode)
        page.type("canary", '[data-name="isbn"] [name=mode]')
        page.type(Keys.HOME, '[data-name="isbn"] [name=slide]')
        turn("isbn", "turn", "Turned isbn: canary 0%")
        shows("isbn", "canary (turned)")
        number = page.driver.find_element(By.CSS_SELECTOR, '[data-name="isbn"] [name=percent]')
        number.clear()
        number.send_keys("12.5")
        turn("isbn", "turn", "Turned isbn: canary 12.5%")
        share = '[data-name="/api/isbn"] .share'
        page.wait(lambda: page.text(share) == "12.5%", "another share")
        turn("isbn", "kill", "Turned isbn: kill switch: native")
        shows("/api/isbn", "native")
        turn("isbn", "reset", "Turned isbn: as the manifest says")
        shows("isbn", "wasm")
        page.open(f"{site}/admin/wasm_gateway/change/")
        assert "mode = canary, percent = 12.5" in page.text("#result_list")
