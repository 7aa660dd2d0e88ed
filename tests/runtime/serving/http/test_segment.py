# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/segment``: each form of the answer, and what can be asked for."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from region_readers import fill_even_odd, read_code
from server_process import photo, png, wait_until


def ask(server, body, accept="image/png", query="", **headers):
    status, found, content = server.ask("POST", f"/v1/segment{query}", body, {"Accept": accept, **headers})
    assert status == 200, content
    return found, content


@pytest.mark.parametrize("model", ["colors", "means"])
@pytest.mark.parametrize("size", [(60, 80), (33, 17), (1, 1)])
def test_label_png_holds_the_runtimes_labels_and_colours(server, expected, model, size):
    picture = photo(*size)
    _, content = ask(server, png(picture), query=f"?model={model}")
    image = Image.open(io.BytesIO(content))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.array(image), expected(model, picture))
    assert image.getpalette()[:3] == [70, 130, 180]


def test_raw_labels_come_row_by_row_with_their_size(server, expected):
    picture = photo(31, 47)
    headers, content = ask(server, png(picture), "application/octet-stream")
    size = int(headers["x-image-height"]), int(headers["x-image-width"])
    assert headers["x-label-type"] == "uint8"
    np.testing.assert_array_equal(np.frombuffer(content, np.uint8).reshape(size), expected("colors", picture))


def test_json_areas_codes_and_polygons_all_give_the_labels_again(server, expected):
    picture = photo(31, 47)
    _, content = ask(server, png(picture), "application/json")
    answer = json.loads(content)
    labels = expected("colors", picture)
    assert (answer["height"], answer["width"]) == labels.shape
    seen = np.zeros(labels.shape, bool)
    for entry in answer["classes"]:
        mask = labels == entry["label"]
        assert entry["pixels"] == mask.sum()
        np.testing.assert_array_equal(read_code(entry["rle"]), mask)
        np.testing.assert_array_equal(fill_even_odd(entry["polygons"], labels.shape), mask)
        seen |= mask
    assert seen.all()


def test_overlay_is_the_photo_under_the_classes_colours(server, expected):
    picture = photo(20, 30)
    _, content = ask(server, png(picture), "image/png;view=overlay", "?opacity=0.25")
    palette = np.array([(70, 130, 180), (107, 142, 35), (128, 64, 128), (0, 0, 142)])
    wanted = picture * 0.75 + palette[expected("colors", picture)] * 0.25
    overlay = np.array(Image.open(io.BytesIO(content)))
    # Integers of 1/256: the weights are exact, and one rounding costs half a level.
    assert np.abs(overlay - wanted).max() <= 0.51


@pytest.mark.parametrize(("accept", "kind"), [("image/jpeg", "JPEG"), ("image/webp", "WEBP")])
def test_overlays_come_as_photographs_too(server, accept, kind):
    headers, content = ask(server, png(photo()), accept)
    image = Image.open(io.BytesIO(content))
    assert headers["content-type"] == accept
    assert (image.format, image.size) == (kind, (80, 60))


def test_classes_that_were_not_asked_for_are_left_out(server, expected):
    picture = photo()
    labels = expected("colors", picture)
    _, content = ask(server, png(picture), query="?classes=road,0")
    np.testing.assert_array_equal(
        np.array(Image.open(io.BytesIO(content))), np.where(np.isin(labels, (0, 2)), labels, 255)
    )
    _, content = ask(server, png(picture), "image/png;view=overlay", "?classes=road&opacity=1")
    overlay = np.array(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(overlay[labels != 2], picture[labels != 2])
    _, content = ask(server, png(picture), "application/json", "?classes=road")
    assert {entry["name"] for entry in json.loads(content)["classes"]} <= {"road"}


def test_size_reduces_the_long_side(server):
    headers, _ = ask(server, png(photo(60, 80)), query="?size=40")
    assert (headers["x-image-width"], headers["x-image-height"]) == ("40", "30")


def test_a_form_is_as_good_as_a_body(server):
    body = png(photo())
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + body + b"\r\n--x--\r\n"
    _, from_form = ask(server, form, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert from_form == ask(server, body)[1]


def test_accept_is_read_by_its_qualities(server):
    body = png(photo())
    assert ask(server, body, "text/html, image/webp;q=0.5, application/json;q=0.9")[0]["content-type"] == (
        "application/json"
    )
    assert ask(server, body, "image/avif,image/*,*/*;q=0.8")[0]["content-type"] == "image/png"
    status, reason = server.error("POST", "/v1/segment", body, {"Accept": "text/html, image/png;q=0"})
    assert (status, reason[:24]) == (406, "no answer can be made fo")


def test_timing_and_request_id_come_with_the_answer(server):
    headers, _ = ask(server, png(photo()), **{"X-Request-Id": "my-photo.7"})
    stages = re.findall(r"(\w+);dur=([0-9.]+)", headers["server-timing"])
    assert [name for name, _ in stages] == ["decode", "preprocess", "queue", "inference", "postprocess", "encode"]
    assert headers["x-request-id"] == "my-photo.7"
    headers, _ = ask(server, png(photo()), **{"X-Request-Id": "no spaces, please"})
    assert re.fullmatch("[0-9a-f]{16}", headers["x-request-id"])

    def logged() -> list[dict]:
        return [event for event in server.events() if event.get("request_id") == "my-photo.7"]

    wait_until(logged)
    log = logged()
    assert log[0]["status"] == 200
    assert log[0]["stages_ms"].keys() >= {"decode", "queue", "inference", "encode"}


def test_models_are_listed_with_their_classes(server):
    answer = json.loads(server.ask("GET", "/v1/models")[2])
    first = answer["models"][0]
    assert (first["name"], first["state"], first["is_default"]) == ("colors", "READY", False)
    assert [(m["name"], m["version"]) for m in answer["models"] if m["is_default"]] == [("colors", "2")]
    assert first["classes"][2] == {"label": 2, "name": "road", "color": [128, 64, 128]}
    assert answer["max_image_pixels"] == 200_000


def test_metrics_show_stages_batches_and_errors(server):
    ask(server, png(photo()))
    server.ask("POST", "/v1/segment", b"no picture")
    assert server.metric("freqfusion_batch_size_count") > 0
    assert server.metric("freqfusion_stage_seconds_count") > 0
    assert server.metric("freqfusion_errors_total") > 0
    assert server.metric("freqfusion_held_bytes") == 0


def test_both_ways_to_a_route_give_the_same_answer_and_are_counted_as_one(server):
    """A query that needs no check goes past the web framework; one with the same meaning that does, through it."""
    picture = png(photo(40, 30, seed=3))
    counted = 'freqfusion_requests_total{protocol="http",route="/v1/segment",status="200"} '

    def count() -> float:
        line = next(line for line in server.ask("GET", "/metrics")[2].decode().splitlines() if line.startswith(counted))
        return float(line.removeprefix(counted))

    before = ask(server, picture) and count()
    short = ask(server, picture, query="?model=colors&classes=sky,tree")
    framework = ask(server, picture, query="?model=colors&classes=sky,tree&geometry=all")
    assert short[1] == framework[1]
    differing = {"x-request-id", "server-timing", "date"}
    assert {k: v for k, v in short[0].items() if k not in differing} == {
        k: v for k, v in framework[0].items() if k not in differing
    }
    assert count() == before + 2
    for query, reason in [("?model=%C3%A4", "no model 'ä'"), ("?classes=%ff", "no class"), ("?model=a&model=b", "'b'")]:
        status, message = server.error("POST", f"/v1/segment{query}", picture)
        assert status in (400, 404)
        assert reason in message
