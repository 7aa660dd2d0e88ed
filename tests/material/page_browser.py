# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium and a real server on loopback, for the tests of the page."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("fastapi", reason="fastapi is not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from freqfusion_runtime.serving.operation.settings import Settings  # noqa: E402
from freqfusion_runtime.serving.process.app import create_app  # noqa: E402
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextlib.contextmanager
def serving(models: Sequence[str], settings: Settings) -> Iterator[str]:
    """Serves models on a free port of the loopback interface; gives the page's address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # so that a browser faster than the server waits instead of failing
        server = uvicorn.Server(uvicorn.Config(create_app(models, settings), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        try:
            _wait_until_ready(address)
            yield address
        finally:
            server.should_exit = True
            thread.join(10)


def _wait_until_ready(address: str) -> None:
    """Every model is opened, which takes a process each."""
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{address}v2/health/ready", timeout=60):
                return
        except urllib.error.HTTPError:
            assert time.monotonic() < end, "the models are not ready"
            time.sleep(0.05)


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """Starts a browser with a fresh profile; downloads go to ``folder/downloads``."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield Page(driver, folder / "downloads")
    finally:
        driver.quit()


class Page:
    """The page as somebody sees it."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads
        behavior = {"behavior": "allow", "downloadPath": str(downloads)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", behavior)

    def open(self, address: str, width: int = 1200, height: int = 800, touch: bool = False, **media: str) -> None:
        """Opens an address in a window of this size; ``media`` are preferences such as ``color_scheme="dark"``."""
        run = self.driver.execute_cdp_cmd
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        run("Emulation.setDeviceMetricsOverride", size)
        run("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        wishes = {"color_scheme": "light", "reduced_motion": "reduce", **media}
        features = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in wishes.items()]
        run("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(address)
        self.until(lambda: self.one("#model").is_enabled() or self.one("#notice").is_displayed(), "the models")

    def one(self, selector: str) -> WebElement:
        """Finds an element by CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Finds elements by CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def script(self, text: str, *arguments: Any) -> Any:
        """Runs JavaScript; ``text`` may await."""
        wrapped = (
            "const done = arguments[arguments.length - 1], given = [...arguments].slice(0, -1);"
            f"(async (...arguments_) => {{ {text} }})(...given)"
            ".then(done, error => done({ failure: String(error) }));"
        )
        answer = self.driver.execute_async_script(wrapped, *arguments)
        assert not (isinstance(answer, dict) and "failure" in answer), answer
        return answer

    def choose(self, file: Path, answers: int = 1) -> None:
        """Chooses a photo and waits until so many models have answered."""
        self.one("#picker").send_keys(str(file))
        self.wait_for_answers(answers)

    def wait_for_answers(self, count: int) -> None:
        """Waits until the panel shows the times of ``count`` models."""
        self.until(
            lambda: len(self.all(".time")) == count and not self.one("#progress").is_displayed(), f"{count} answers"
        )
        self.settle()

    def settle(self) -> None:
        """Waits until what was asked for is painted."""
        self.script("await new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)));")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 15) -> None:
        """Waits for a condition."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(StaleElementReferenceException):
                if condition():
                    return
            if time.monotonic() > end:
                notice = self.one("#notice").text
                pytest.fail(f"waited {seconds} s for {what}; the page's notice is {notice!r}, its log {self.errors()}")
            time.sleep(0.02)

    def pixel(self, x: float, y: float) -> tuple[int, int, int]:
        """Reads the picture's colour at a place in [0, 1]."""
        self.settle()
        red, green, blue = self.script(
            "const picture = document.querySelector('#picture'), [x, y] = arguments_;"
            "const copy = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});"
            "copy.drawImage(picture, -Math.floor(x * picture.width), -Math.floor(y * picture.height));"
            "return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);",
            x,
            y,
        )
        return red, green, blue

    def focused(self) -> WebElement:
        """The element that keys go to."""
        return self.driver.switch_to.active_element

    def errors(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Addresses that were asked since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
