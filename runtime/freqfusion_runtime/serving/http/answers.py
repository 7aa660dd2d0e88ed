# SPDX-License-Identifier: Apache-2.0
"""An HTTP answer that is done only when the client has taken it."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Answer(Response):
    """Sends its body and then waits until it has left, so that the request's memory stays accounted for till then."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        # The server holds this message back while the transport is full.
        await send({"type": "http.response.body", "body": b"", "more_body": False})
