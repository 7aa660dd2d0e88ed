# SPDX-License-Identifier: Apache-2.0
"""What reading a form costs grows with the form and no faster."""

from __future__ import annotations

import contextlib

import pytest
from freqfusion_runtime.serving.http.segment_routes import _from_form
from freqfusion_runtime.serving.operation.errors import BadRequestError
from growth import assert_linear
from starlette.requests import Request

HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'
FORMS = {
    "a picture": lambda n: HEAD + b"\r\n" + bytes(100 * n) + b"\r\n--x--\r\n",
    "line ends": lambda n: HEAD + b"\r\n" + b"\r\n" * 20 * n + b"\r\n--x--\r\n",
    "almost boundaries": lambda n: HEAD + b"\r\n" + b"\r\n--y" * 20 * n + b"\r\n--x--\r\n",
    "headers": lambda n: HEAD + b"X-A: b\r\n" * n + b"\r\nx\r\n--x--\r\n",
    "a long header": lambda n: HEAD + b"X-A: " + b"b" * 50 * n + b"\r\n\r\nx\r\n--x--\r\n",
    "names": lambda n: HEAD.replace(b'"a"', b'"' + b"a\\" * 50 * n + b'"') + b"\r\nx\r\n--x--\r\n",
    "fields": lambda n: (HEAD + b"\r\nx\r\n") * n + b"--x--\r\n",
    "no end": lambda n: HEAD + b"\r\n" + b"x" * 100 * n,
    "no beginning": lambda n: b"-" * 100 * n,
}


@pytest.mark.parametrize("kind", FORMS)
def test_forms_of_any_kind_cost_what_their_length_costs(kind):
    request = Request({"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]})

    def read(body):
        with contextlib.suppress(BadRequestError):
            _from_form(request, body)

    assert_linear(read, FORMS[kind], 1500)
