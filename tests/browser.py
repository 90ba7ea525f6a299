# Debian's Chromium, driven through Selenium, and the example projects that it looks at.

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

from tests.services import free_port  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
GAME = ROOT / "example_projects" / "finicky_whiskers"
FLASK_APP = ROOT / "example_projects" / "flask_app"
DJANGO_SITE = ROOT / "example_projects" / "django_site"

CHROMIUM = Path("/usr/bin/chromium")
CHROMEDRIVER = Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PATIENCE = 120  # s; nothing is slower unless it is broken


@contextmanager
def chromium_in(folder: Path) -> Iterator[WebDriver]:
    """A browser whose profile is in `folder`."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(CHROMEDRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The browser's page: short words for what the tests do with it."""

    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> None:
        self.driver.get(url)

    def text(self, selector: str) -> str:
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def number(self, selector: str) -> int:
        return int(self.text(selector).replace(",", ""))

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def type(self, text: str, selector: str = "body") -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(text)

    def wait(self, condition: Callable[[], object], message: str) -> None:
        gone = [WebDriverException]  # elements of a page that is just going
        WebDriverWait(self.driver, PATIENCE, 0.02, gone).until(lambda _: condition(), message)

    @property
    def scene(self) -> str:
        return self.driver.execute_script("return document.body.dataset.scene")

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def running(command: list[str], folder: Path, **environment: str) -> Iterator[str]:
    """A server in a process of its own; gives the base URL, once it answers."""
    log = folder / "log"
    with open(log, "wb") as output:
        environ = (
            os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUNBUFFERED": "1"} | environment
        )
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environ, cwd=folder)
    end = time.monotonic() + PATIENCE
    try:
        while not ((found := re.search(r"http://(127\.0\.0\.1:\d+)", log.read_text())) and answers(found[1])):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield found[0]
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def answers(authority: str) -> bool:
    connection = http.client.HTTPConnection(authority, timeout=PATIENCE)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    except OSError:
        return False
    finally:
        connection.close()
    return True


@contextmanager
def bookshop(folder: Path) -> Iterator[str]:
    """The site of django_site, its state in `folder`, with a superuser "ada"; its base URL."""
    environment = {
        "DJANGO_SITE_STATE": str(folder / "state"),
        "DJANGO_SETTINGS_MODULE": "bookshop.settings",
        "DJANGO_SUPERUSER_PASSWORD": "secret",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    manage = [sys.executable, str(DJANGO_SITE / "manage.py")]
    for command in (["migrate"], ["createsuperuser", "--noinput", "--username=ada", "--email=ada@x.test"]):
        subprocess.run([*manage, *command], env=os.environ | environment, check=True, capture_output=True)
    place = f"127.0.0.1:{free_port()}"
    with running([*manage, "runserver", "--noreload", "--insecure", place], folder, **environment) as site:
        yield site


def log_in(page: Page, site: str) -> None:
    """As the superuser of the bookshop."""
    page.open(f"{site}/login/")
    page.type("ada", "[name=username]")
    page.type("secret" + Keys.ENTER, "[name=password]")
    page.wait(lambda: "Hello, ada." in page.text("body"), "nobody is logged in")
