# SPDX-License-Identifier: Apache-2.0
"""The page at ``/`` in a real browser, against a real server."""

from __future__ import annotations

import base64
import io
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import freqfusion_runtime
import numpy as np
import pytest
from freqfusion_runtime.serving.operation.settings import Settings
from page_browser import Page, browsing, serving
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from served_detector import write_detector
from small_models import CLASSES, PALETTE, image_manifest, write_image_model, write_tensor_model

# Each quarter has a colour that one class likes best: sky, tree, car, road.
QUARTERS = {(0.25, 0.25): (0, 0, 255), (0.75, 0.25): (0, 255, 0), (0.25, 0.75): (255, 0, 0), (0.75, 0.75): (0, 0, 0)}
EXPECTED = {(0.25, 0.25): "sky", (0.75, 0.25): "tree", (0.25, 0.75): "car", (0.75, 0.75): "road"}
# One level for rounding the blend, one for storing premultiplied colours.
LEVELS = 2


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    trained = image_manifest(weights="checkpoint", weights_file="small.pth")
    return {
        "blocks": write_tensor_model(folder / "blocks.onnx", operator="LocalSimilarity"),
        "pixels": write_image_model(folder / "pixels.onnx", trained),
    }


@pytest.fixture(scope="module")
def address(models) -> Iterator[str]:
    # The small model's node is no similarity: only its function body is right.
    with serving([f"{name}={path}" for name, path in models.items()], Settings(threads=1, kernels="never")) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """The page, freshly opened; a test fails if anything was logged or asked of another origin."""
    browser.errors()
    browser.requests()
    browser.open(address)
    yield browser
    assert browser.errors() == []
    asked = browser.requests()
    assert [url for url in asked if url.startswith(f"{address}style.css")]
    assert [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))] == []


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "quarters.png"
    picture().save(path)
    return path


def picture() -> Image.Image:
    image = np.zeros((192, 256, 3), np.uint8)
    for (x, y), color in QUARTERS.items():
        rows, columns = slice(int(y * 192) - 48, int(y * 192) + 48), slice(int(x * 256) - 64, int(x * 256) + 64)
        image[rows, columns] = color
    return Image.fromarray(image)


def color_of(name: str) -> np.ndarray:
    return np.array(PALETTE[CLASSES.index(name)])


def assert_color(page: Page, place: tuple[float, float], expected: np.ndarray) -> None:
    actual = np.array(page.pixel(*place))
    assert np.abs(actual - expected).max() <= LEVELS, f"at {place}: got {actual}, expected {expected}"


def predicted(models: dict[str, Path], name: str, photo: Path) -> freqfusion_runtime.Segmentation:
    return freqfusion_runtime.load(models[name], kernels="never").predict(photo)


def test_a_chosen_photo_is_shown_under_its_class_colours(page, photo, models):
    page.choose(photo)
    for place, color in QUARTERS.items():
        assert_color(page, place, 0.4 * np.array(color) + 0.6 * color_of(EXPECTED[place]))
    rows = {row.get_dom_attribute("data-key"): row.text for row in page.all(".class")}
    shares = predicted(models, "blocks", photo).shares()
    assert list(rows) == [share.name for share in shares]
    for share in shares:
        assert f"{share.share * 100:.1f} %" in rows[share.name]


def test_the_slider_goes_from_the_photo_to_the_colours_alone(page, photo):
    page.choose(photo)
    page.one("#opacity").send_keys(Keys.HOME)
    for place, color in QUARTERS.items():
        assert_color(page, place, np.array(color))
    page.one("#opacity").send_keys(Keys.END)
    for place in QUARTERS:
        assert_color(page, place, color_of(EXPECTED[place]))
    assert page.one("#opacity-value").text == "100 %"


def test_the_class_under_the_pointer_is_named(page, photo):
    page.choose(photo)
    for place, name in EXPECTED.items():
        assert named_at(page, place) == (name, "")
    ActionChains(page.driver, duration=0).move_to_element(page.one(".brand")).perform()
    assert not page.one(".tip").is_displayed()


def named_at(page: Page, place: tuple[float, float]) -> tuple[str, str]:
    """What the tip says with the pointer at a place: the class, and what the other model says."""
    canvas = page.one("#picture")
    offset = (int((place[0] - 0.5) * canvas.size["width"]), int((place[1] - 0.5) * canvas.size["height"]))
    ActionChains(page.driver, duration=0).move_to_element_with_offset(canvas, *offset).perform()
    assert page.one(".tip").is_displayed()
    name, note = (page.one(f".tip > :nth-child({k})").get_property("textContent") for k in (2, 3))
    return name, note


def test_a_class_can_be_switched_off_and_on(page, photo):
    page.choose(photo)
    sky = page.one(".class[data-key=sky]")
    sky.click()
    ActionChains(page.driver, duration=0).move_to_element(page.one(".brand")).perform()
    assert sky.get_dom_attribute("aria-pressed") == "false"
    assert_color(page, (0.25, 0.25), np.array([0, 0, 255]))
    assert_color(page, (0.75, 0.25), 0.4 * np.array([0, 255, 0]) + 0.6 * color_of("tree"))
    sky.click()
    ActionChains(page.driver, duration=0).move_to_element(page.one(".brand")).perform()
    assert_color(page, (0.25, 0.25), 0.4 * np.array([0, 0, 255]) + 0.6 * color_of("sky"))
    page.one("[data-do=hide-all]").click()
    for place, color in QUARTERS.items():
        assert_color(page, place, np.array(color))
    page.one("[data-do=show-all]").click()
    assert_color(page, (0.25, 0.75), 0.4 * np.array([255, 0, 0]) + 0.6 * color_of("car"))


def test_pointing_at_a_class_fades_the_others(page, photo):
    page.choose(photo)
    ActionChains(page.driver, duration=0).move_to_element(page.one(".class[data-key=tree]")).perform()
    assert_color(page, (0.75, 0.25), 0.4 * np.array([0, 255, 0]) + 0.6 * color_of("tree"))
    faded = 0.6 * round(0.18 * 255) / 255
    # A premultiplied colour at 18 % opacity keeps steps of 255 / 46 levels, of which 60 % are seen.
    actual = np.array(page.pixel(0.25, 0.75))
    assert np.abs(actual - ((1 - faded) * np.array([255, 0, 0]) + faded * color_of("car"))).max() <= 2 + LEVELS


def test_everything_is_done_from_the_keyboard(page, photo):
    page.choose(photo)
    stops = []
    page.script("document.activeElement.blur();")
    for _ in range(30):
        ActionChains(page.driver, duration=0).send_keys(Keys.TAB).perform()
        focused = page.focused()
        if focused.tag_name == "body":
            break
        assert has_focus_mark(page), f"no visible focus on {focused.get_property('outerHTML')[:120]}"
        stops.append(focused.get_dom_attribute("id") or focused.get_dom_attribute("data-do") or focused.text.split()[0])
    wanted = ["FreqFusion", "model", "against", "choose", "shoot", "picture", "opacity"]
    assert stops[: len(wanted)] == wanted
    assert {"show-all", "hide-all", "rerun", "Mask", "Overlay"} < set(stops)

    canvas = page.one("#picture")
    canvas.send_keys(*[Keys.ARROW_LEFT] * 10, *[Keys.ARROW_UP] * 10)
    assert page.one("#announce").get_property("textContent") == "sky"
    canvas.send_keys(*[Keys.ARROW_RIGHT] * 20)
    assert page.one("#announce").get_property("textContent") == "tree"
    assert page.one(".tip").is_displayed()
    canvas.send_keys(Keys.ESCAPE)
    assert not page.one(".tip").is_displayed()

    first, second = page.all(".class")[:2]
    page.script("arguments_[0].focus();", first)
    first.send_keys(Keys.ARROW_DOWN)
    assert page.focused() == second
    second.send_keys(Keys.SPACE)
    assert second.get_dom_attribute("aria-pressed") == "false"
    page.one("#opacity").click()
    name = second.get_dom_attribute("data-key")
    place = next(place for place, each in EXPECTED.items() if each == name)
    assert_color(page, place, np.array(QUARTERS[place]))

    page.one("#against").send_keys("pixels")
    page.wait_for_answers(2)
    ActionChains(page.driver, duration=0).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    canvas.send_keys(Keys.TAB)
    assert page.focused().get_dom_attribute("id") == "divider"
    assert has_focus_mark(page)
    page.focused().send_keys(Keys.HOME)
    assert page.focused().get_dom_attribute("aria-valuenow") == "0"


def has_focus_mark(page: Page) -> bool:
    """Whether the focused element or the frame around it has an outline or, for the divider, a ring."""
    return page.script(
        "const e = document.activeElement; const marks = [e, e.parentElement, ...e.children];"
        "return marks.some(m => parseFloat(getComputedStyle(m).outlineWidth) >= 2 "
        "&& getComputedStyle(m).outlineStyle !== 'none');"
    )


def test_two_models_are_compared_with_a_divider(page, photo, models):
    mixed = photo.with_name("speck.png")
    image = picture()
    image.paste((255, 0, 0), (40, 40, 43, 43))  # lost in the mean over 8 x 8 pixels, seen pixel by pixel
    image.save(mixed)
    left, right = (predicted(models, name, mixed).labels for name in ("blocks", "pixels"))
    left_class, right_class = CLASSES[left[41, 41]], CLASSES[right[41, 41]]
    assert left_class != right_class
    page.choose(mixed)
    assert not page.one("#divider").is_displayed()
    Select(page.one("#against")).select_by_visible_text("pixels")
    page.wait_for_answers(2)
    divider = page.one("#divider")
    spot = (41.5 / 256, 41.5 / 192)
    red = np.array([255, 0, 0])
    divider.send_keys(Keys.END)
    assert divider.get_dom_attribute("aria-valuenow") == "100"
    assert_color(page, spot, 0.4 * red + 0.6 * color_of(left_class))
    assert named_at(page, spot) == (left_class, f"pixels: {right_class}")
    divider.send_keys(Keys.HOME)
    assert divider.get_dom_attribute("aria-valuetext") == "0 % blocks, 100 % pixels"
    assert_color(page, spot, 0.4 * red + 0.6 * color_of(right_class))
    divider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert divider.get_dom_attribute("aria-valuenow") == "4"
    assert named_at(page, spot) == (right_class, f"blocks: {left_class}")

    width = page.one("#picture").size["width"]
    ActionChains(page.driver, duration=0).drag_and_drop_by_offset(divider, width // 2, 0).perform()
    assert 50 <= int(divider.get_dom_attribute("aria-valuenow")) <= 56
    assert f"\n{np.count_nonzero(left != right):,} differ" in page.one(".agreement").text
    page.one("#only-differences").click()
    divider.send_keys(Keys.HOME)
    assert_color(page, (0.25, 0.75), red)
    assert_color(page, spot, 0.4 * red + 0.6 * color_of(right_class))
    assert "model=blocks:1&against=pixels:1" in page.driver.current_url


def test_it_says_what_each_model_is(page, photo):
    page.choose(photo)
    facts = page.one("#models").text
    assert "FreqFusion operators: 1 function body" in facts
    assert "Random weights." in facts
    Select(page.one("#model")).select_by_visible_text("pixels")
    page.until(lambda: "pixels" in page.one("#models").text, "the other model")
    page.wait_for_answers(1)
    assert "Random weights." not in page.one("#models").text


def test_time_is_broken_into_parts(page, photo):
    page.choose(photo)
    parts = [part.text for part in page.all(".parts dt")]
    assert {"Decode", "Queue", "Inference", "Encode", "Transfer", "Browser"} <= set(parts)
    spent = [float(part.text.removesuffix(" ms")) for part in page.all(".parts dd")]
    total = float(page.one(".total").text.removesuffix(" ms"))
    # Each part is rounded to 0.05 ms, or the total to 0.5 ms from 100 ms on.
    assert abs(sum(spent) - total) <= 0.05 * len(spent) + 0.5 + 0.5 * sum(part >= 100 for part in spent)
    widths = [piece.rect["width"] for piece in page.all(".piece")]
    assert widths.index(max(widths)) == spent.index(max(spent))


def test_mask_and_overlay_can_be_downloaded(page, photo, models):
    page.choose(photo)
    buttons = page.all("#files button")
    buttons[0].click()
    buttons[1].click()
    mask, overlay = (page.downloads / f"quarters.{kind}.png" for kind in ("labels", "overlay"))
    page.until(lambda: mask.is_file() and overlay.is_file(), "two files")
    with Image.open(mask) as image:
        np.testing.assert_array_equal(np.asarray(image), predicted(models, "blocks", photo).labels)
    with Image.open(overlay) as image:
        assert image.size == (256, 192)
        middle = np.asarray(image.convert("RGB"))[48, 64]
    assert np.abs(middle - (0.4 * np.array([0, 0, 255]) + 0.6 * color_of("sky"))).max() <= LEVELS


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_can_be_dropped_and_pasted(page, photo, way):
    page.script(
        "const bytes = Uint8Array.from(atob(arguments_[0]), c => c.charCodeAt(0));"
        "const data = new DataTransfer(); data.items.add(new File([bytes], 'quarters.png', {type: 'image/png'}));"
        "const options = {bubbles: true, cancelable: true};"
        "if (arguments_[1] === 'drop') {"
        "  document.body.dispatchEvent(new DragEvent('dragenter', {...options, dataTransfer: data}));"
        "  if (document.querySelector('#veil').hidden) throw new Error('nothing invites to drop');"
        "  document.body.dispatchEvent(new DragEvent('drop', {...options, dataTransfer: data}));"
        "} else document.body.dispatchEvent(new ClipboardEvent('paste', {...options, clipboardData: data}));",
        base64.b64encode(photo.read_bytes()).decode(),
        way,
    )
    page.wait_for_answers(1)
    assert not page.one("#veil").is_displayed()
    assert_color(page, (0.75, 0.25), 0.4 * np.array([0, 255, 0]) + 0.6 * color_of("tree"))


def test_the_camera_takes_a_photo(page):
    page.one(".start [data-do=shoot]").click()
    page.until(lambda: page.one("#camera [data-do=shoot]").is_enabled(), "the camera")
    page.one("#camera [data-do=shoot]").click()
    page.wait_for_answers(1)
    assert not page.one("#camera").is_displayed()
    assert page.one("#picture-size").text.startswith("camera.jpg, ")
    assert page.all(".class")


def test_a_rotated_photo_and_its_labels_lie_on_each_other(page, photo):
    rotated = photo.with_name("rotated.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    picture().save(rotated, exif=exif, quality=95, subsampling=0)
    page.choose(rotated)
    assert page.one("#picture-size").text == "rotated.jpg, 192 \u00d7 256"
    # The turn takes the lower left quarter, the car, to the upper left, and the sky to the upper right.
    assert_color(page, (0.25, 0.25), 0.4 * np.array([254, 0, 0]) + 0.6 * color_of("car"))
    assert_color(page, (0.75, 0.25), 0.4 * np.array([0, 0, 254]) + 0.6 * color_of("sky"))


def test_a_format_that_the_browser_cannot_show_is_segmented_still(page, photo):
    tiff = photo.with_name("quarters.tiff")
    picture().save(tiff)
    page.choose(tiff)
    page.one("#opacity").send_keys(Keys.END)
    for place, name in EXPECTED.items():
        assert_color(page, place, color_of(name))


def test_the_servers_error_is_shown(browser, address, photo):
    broken = photo.with_name("broken.png")
    broken.write_bytes(photo.read_bytes()[:200])
    browser.open(address)
    browser.one("#picker").send_keys(str(broken))
    browser.until(lambda: browser.one("#notice").is_displayed(), "the notice")
    notice = browser.one("#notice")
    assert notice.get_dom_attribute("role") == "alert"
    assert "The server cannot read this photo" in notice.text
    assert "is damaged or truncated" in notice.text
    assert "HTTP 400, request " in notice.text
    assert not browser.one("[data-do=retry]").is_displayed()
    assert all("400" in error for error in browser.errors())
    browser.choose(photo)
    assert not notice.is_displayed()


def test_a_file_that_is_no_photo_is_refused_before_it_is_sent(page, photo):
    film = photo.with_name("film.mp4")
    film.write_bytes(b"\0" * 100)
    page.script("document.querySelector('#picker').accept = '';")
    page.one("#picker").send_keys(str(film))
    page.until(lambda: "film.mp4 is of type video/mp4" in page.one("#notice").text, "the notice")
    assert not [url for url in page.requests() if "/v1/segment" in url]
    page.driver.refresh()  # what was asked before was read above


def test_a_busy_server_is_asked_again(page, photo):
    page.script(
        "const real = window.fetch; let refused = 0;"
        "window.fetch = (address, options) => String(address).startsWith('v1/segment') && refused++ === 0"
        " ? Promise.resolve(new Response('{\"error\": \"full\"}', {status: 503, headers: {'Retry-After': '1'}}))"
        " : real(address, options);"
    )
    start = time.monotonic()
    page.choose(photo)
    assert time.monotonic() - start >= 1.0
    assert not page.one("#notice").is_displayed()


def test_a_lost_server_is_reported_and_asked_again_on_demand(page, photo):
    page.script("window.real = window.fetch; window.fetch = () => Promise.reject(new TypeError('Failed to fetch'));")
    page.one("#picker").send_keys(str(photo))
    page.until(lambda: "The server cannot be reached" in page.one("#notice").text, "the notice")
    page.script("window.fetch = window.real;")
    page.one("[data-do=retry]").click()
    page.wait_for_answers(1)
    assert not page.one("#notice").is_displayed()


def test_an_api_key_is_asked_for_and_used(browser, models, photo):
    settings = Settings(threads=1, kernels="never", api_key="open sesame", max_body_mb=0.0005)
    with serving([f"blocks={models['blocks']}"], settings) as address:
        browser.open(address)
        assert "asks for an API key" in browser.one("#notice").text
        for key, label in (("wrong", "the same question"), ("open sesame", "the models")):
            browser.one("#key").send_keys(key, Keys.ENTER)
            browser.until(lambda: browser.one("#key").get_property("value") == "", label)
        browser.until(lambda: browser.one("#model").is_enabled(), "the models")
        assert not browser.one("#notice").is_displayed()
        assert not browser.one("#against-choice").is_displayed()

        large = photo.with_name("large.png")
        Image.effect_noise((64, 64), 50).save(large)
        browser.one("#picker").send_keys(str(large))
        browser.until(lambda: "The photo is too large" in browser.one("#notice").text, "the limit")
        assert all("401" in error for error in browser.errors())


def test_only_models_that_label_pixels_are_offered(browser, models, photo, tmp_path):
    detector = write_detector(tmp_path / "detector.onnx", "image")
    settings = Settings(threads=1, kernels="never")
    with serving([f"detector={detector}", f"pixels={models['pixels']}"], settings) as address:
        browser.open(address)
        # A model that is still being loaded does not say yet what it does.
        listed = "return [...document.querySelectorAll('#model option')].map(option => option.textContent);"
        browser.until(lambda: browser.script(listed) == ["pixels"], "the list")
        browser.choose(photo)
        assert browser.one("#notice").is_displayed() is False
    with serving([f"detector={detector}"], settings) as address:
        browser.open(address)
        browser.until(lambda: "None of the models here labels pixels" in browser.one("#notice").text, "the notice")
    assert browser.errors() == []


@pytest.mark.parametrize("width", [320, 360, 768])
def test_nothing_is_wider_than_a_phone(page, address, photo, width):
    page.open(f"{address}?model=blocks:1&against=pixels:1", width=width, height=740, touch=True)
    assert page.script("return document.documentElement.scrollWidth;") == width
    page.choose(photo, answers=2)
    assert page.script("return document.documentElement.scrollWidth;") == width
    small = page.script(
        "return [...document.querySelectorAll('button, select, input, summary, [role=slider]')]"
        ".filter(e => e.checkVisibility())"
        ".map(e => [e.outerHTML.slice(0, 80), (e.closest('label') ?? e).getBoundingClientRect()])"
        ".filter(([, box]) => box.right > innerWidth + 0.5 || Math.min(box.width, box.height) < 24);"
    )
    assert small == []
    if width < 500:
        assert "Touch the picture" in page.one("#picture-help").text


def test_a_touch_names_the_class(page, address, photo):
    page.open(address, width=360, height=740, touch=True)
    page.choose(photo)
    box = page.script("return document.querySelector('#picture').getBoundingClientRect();")
    point = {"x": box["x"] + 0.75 * box["width"], "y": box["y"] + 0.75 * box["height"]}
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.until(lambda: page.one(".tip").is_displayed(), "the name")
    assert page.one(".tip span:nth-child(2)").get_property("textContent") == "road"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(page, address, photo, scheme):
    page.open(address, color_scheme=scheme)
    page.choose(photo)
    contrasts = page.script(CONTRASTS)
    assert len(contrasts) > 20
    assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []  # WCAG 2.2, level AA
    background = page.script("return getComputedStyle(document.body).backgroundColor;")
    assert (sum(map(int, background[4:-1].split(","))) < 384) == (scheme == "dark")


CONTRASTS = """
const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const numbers = color => color.match(/[\\d.]+/g).map(Number);
const below = element => {
  for (let e = element; e; e = e.parentElement) {
    const color = numbers(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
};
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim() !== '');
  if (own && e.checkVisibility() && e.closest('.unseen, option, noscript') === null) {
    const [a, b] = [luminance(numbers(getComputedStyle(e).color)), luminance(below(e))];
    found.push([e.textContent.trim().slice(0, 40), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
}
return found;
"""


def test_motion_stops_where_it_is_unwanted(page, address):
    page.open(address, reduced_motion="reduce")
    moving = "return getComputedStyle(document.querySelector('.progress i')).animationName;"
    assert page.script(moving) == "none"
    page.open(address, reduced_motion="no-preference")
    assert page.script(moving) == "slide"


def test_names_and_roles_are_there_for_screen_readers(page, photo, models):
    page.choose(photo)
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    spoken = {
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    }
    shares = predicted(models, "blocks", photo).shares()
    largest = ", ".join(f"{share.name} {int(share.share * 100 + 0.5)} %" for share in shares[:3])
    assert {
        ("combobox", "Model"),
        ("combobox", "Compare with"),
        ("slider", "Opacity"),
        ("button", "Download the mask"),
        ("button", "Use the camera"),
        ("heading", "Classes (4)"),
        ("application", f"blocks: 4 classes, {largest}"),
    } <= spoken
    unnamed = [role for role, name in spoken if role in ("button", "slider", "combobox", "link", "image") and not name]
    assert unnamed == []


def test_label_pngs_of_every_depth_are_read(page):
    for depth in (1, 2, 4, 8, 16):
        labels = np.random.default_rng(depth).integers(0, 2**depth, (13, 37))
        if depth == 16:
            image = Image.fromarray(labels.astype(np.uint16))
        else:
            image = Image.fromarray(labels.astype(np.uint8))
            image.putpalette([level for level in range(2**depth) for _ in range(3)])
        buffer = io.BytesIO()
        image.save(buffer, "PNG", **({} if depth == 16 else {"bits": depth}))
        assert decoded(page, buffer.getvalue()) == labels.ravel().tolist(), f"{depth} bits"


def test_every_png_filter_is_undone(page):
    for kind in range(5):
        labels = np.random.default_rng(kind).integers(0, 256, (9, 11)).astype(np.uint8)
        assert decoded(page, filtered_png(labels, kind)) == labels.ravel().tolist(), f"filter {kind}"


def filtered_png(labels: np.ndarray, kind: int) -> bytes:
    """Writes a grey PNG with one filter in all rows, by the definitions of the PNG specification, section 9."""
    padded = np.pad(labels.astype(int), ((1, 0), (1, 0)))
    left, up, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    distances = np.abs(np.stack([up - corner, left - corner, left + up - 2 * corner]))
    paeth = np.choose(distances.argmin(axis=0), [left, up, corner])
    prediction = [np.zeros_like(left), left, up, (left + up) // 2, paeth][kind]
    rows = ((labels - prediction) % 256).astype(np.uint8)
    data = b"".join(bytes([kind]) + row.tobytes() for row in rows)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_a_damaged_label_png_is_an_error_with_a_reason(page):
    data = filtered_png(np.zeros((4, 4), np.uint8), 0)
    for damaged, message in ((data[:-20], "cut short"), (data[1:], "not a PNG")):
        with pytest.raises(AssertionError, match=message):
            decoded(page, damaged)


def decoded(page: Page, data: bytes) -> list[int]:
    return page.script(
        "const { decodeLabelPng } = await import('/label_png.js');"
        "const bytes = Uint8Array.from(atob(arguments_[0]), c => c.charCodeAt(0));"
        "return [...(await decodeLabelPng(bytes.buffer)).labels];",
        base64.b64encode(data).decode(),
    )
