# SPDX-License-Identifier: Apache-2.0
"""A server on loopback answers nobody who was sent by a page: by name, by origin, by what a form can send."""

from __future__ import annotations

import asyncio
import json

import pytest
from freqfusion_runtime.serving.http.origins import Origins
from freqfusion_runtime.serving.operation.errors import CrossSiteError, WrongHostError
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.process.app import create_app
from starlette.datastructures import Headers


def check(headers: dict[str, str], method: str = "GET", **settings) -> None:
    Origins(Settings(**settings)).check(method, Headers(headers))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "127.8.9.1", "page.localhost:80"]
)
def test_loopback_is_called_by_loopbacks_names(host):
    check({"host": host})
    check({"host": host}, host="localhost")
    check({})  # HTTP/1.0; no browser


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.5", "x", ""])
def test_a_name_that_resolves_to_loopback_is_none_of_its_names(host):
    with pytest.raises(WrongHostError, match=r"this server is not called .* or start it with --allowed-host NAME\."):
        check({"host": host})


def test_names_can_be_allowed_and_case_ports_and_final_dots_do_not_matter():
    check({"host": "Seg.Example.:443"}, allowed_hosts=("seg.example",))
    check({"host": "anything"}, allowed_hosts=("*",))
    with pytest.raises(WrongHostError):
        check({"host": "other.example"}, allowed_hosts=("seg.example",))


def test_beyond_loopback_every_name_is_taken_until_some_are_allowed_and_addresses_are_still():
    check({"host": "evil.example"}, host="0.0.0.0")
    check({"host": "10.0.0.5:8000"}, host="0.0.0.0", allowed_hosts=("seg.example",))
    with pytest.raises(WrongHostError):
        check({"host": "evil.example"}, host="0.0.0.0", allowed_hosts=("seg.example",))


OWN = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no-browser"),
        pytest.param({"origin": OWN, "sec-fetch-site": "same-origin"}, id="our-page"),
        pytest.param({"sec-fetch-site": "none"}, id="typed-by-the-user"),
        pytest.param({"origin": OWN}, id="our-page-without-tls-or-in-an-old-browser"),
    ],
)
def test_our_own_page_may_post(headers):
    check({"host": "127.0.0.1:8000", **headers}, "POST")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "null", "sec-fetch-site": "cross-site"},
        {"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:3000"},
        {"sec-fetch-site": "cross-site"},
        {"origin": OWN, "sec-fetch-site": "cross-site"},
        {"origin": ""},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_another_sites_page_may_not(headers, method):
    with pytest.raises(
        CrossSiteError, match=r"from a page of another site .* --allowed-host and the name of that site"
    ):
        check({"host": "127.0.0.1:8000", **headers}, method)


def test_a_proxy_that_asks_by_the_address_passes_its_own_page_on_when_its_name_is_allowed():
    headers = {"host": "127.0.0.1:8000", "origin": "https://seg.example"}
    check(headers, "POST", allowed_hosts=("seg.example",))
    check({**headers, "sec-fetch-site": "same-origin"}, "POST")  # where browsers say so, nothing need be allowed
    with pytest.raises(CrossSiteError):
        check(headers, "POST", allowed_hosts=("*",))


def test_the_page_works_from_another_machine_when_the_server_listens_there():
    check({"host": "10.0.0.5:8000", "origin": "http://10.0.0.5:8000"}, "POST", host="0.0.0.0")


async def asked(app, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    sent = []
    bodies = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive():
        return next(bodies, None) or await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    await app({**scope, "headers": raw, "http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send)
    answer = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answer, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture(scope="module")
def ask(models):
    app = create_app([models["colors"]], Settings(grpc_port=None))
    yield lambda *request: asyncio.run(asked(app, *request))
    app.state.service.log.close()


ROUTES = [
    ("POST", "/v1/segment"),
    ("POST", "/v2/models/colors/infer"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/colors/load"),
    ("GET", "/v1/models"),
    ("GET", "/v2/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_for_its_name_and_lets_no_other_site_use_the_answer(ask, method, path):
    status, headers, body = ask(method, path, {"host": "evil.example"})
    assert status == 421
    assert "not called 'evil.example'" in json.loads(body)["error"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert ask(method, path, {"host": "127.0.0.1"})[0] != 421


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[0] == "POST"])
def test_every_route_that_does_something_refuses_pages_of_other_sites(ask, method, path):
    status, _, body = ask(method, path, {"host": "localhost", "origin": "https://evil.example"})
    assert status == 403
    assert "a page of another site ('https://evil.example')" in json.loads(body)["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_a_form_can_send_is_no_request_of_the_protocol(ask, kind):
    status, _, body = ask("POST", "/v2/repository/index", {"host": "localhost", "content-type": kind})
    assert status == 415
    assert "is no request of the protocol. Send it as application/json" in json.loads(body)["error"]
