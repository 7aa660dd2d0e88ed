# SPDX-License-Identifier: Apache-2.0
"""Over TLS a connection counts from when it is accepted, and neither its beginning nor its end can be dragged out."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import ssl
import subprocess
import time

import pytest
import uvloop
from freqfusion_runtime.serving.http.connection import RESERVED
from freqfusion_runtime.serving.http.tls import CertificateError, server_context
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.process.server import serve

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes no certificate without openssl")

LIMIT = 4


def make_pair(folder, *options: str) -> tuple:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate, *options]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"), "-nodes")


class Story:
    """What happens to a server in this process, told in a thread beside it."""

    def __init__(self, models, pair, tmp_path, run) -> None:
        self._run = run
        self.certificate, key = pair
        self.settings = Settings(
            port=0,
            grpc_port=None,
            tls_certificate=self.certificate,
            tls_key=key,
            header_timeout_s=1.0,
            max_connections=LIMIT,
            drain_delay_s=0.0,
            log_file=tmp_path / "log",
        )
        self.models = [models["colors"]]
        self.port = 0

    def tell(self, story) -> float:
        """Tells it once the server is ready; gives the seconds that the server then needed to end."""
        from freqfusion_runtime.serving.scheduling.registry import ModelSource

        sources = [ModelSource("colors", path) for path in self.models]

        async def main() -> float:
            stop, ready = asyncio.Event(), asyncio.Event()

            def on_listening(addresses) -> None:
                self.port = addresses.port

            running = asyncio.create_task(
                serve(sources, self.settings, on_listening=on_listening, on_ready=lambda _: ready.set(), stop=stop)
            )
            await asyncio.wait_for(ready.wait(), 60)
            try:
                await asyncio.to_thread(story)
            finally:
                start = time.monotonic()
                stop.set()
                await running
            return time.monotonic() - start

        return self._run(main())

    def silent(self) -> socket.socket:
        raw = socket.create_connection(("127.0.0.1", self.port))
        raw.settimeout(20)
        return raw

    def client(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self.certificate)
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=20)

    def asked(self, path: str) -> tuple[int, bytes]:
        connection = self.client()
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def story(models, pair, tmp_path, request):
    return Story(models, pair, tmp_path, request.param)


def test_a_greeting_is_answered_however_early_it_comes(story):
    def tell():
        for _ in range(50):
            assert story.asked("/v2/health/live")[0] == 200

    assert story.settings.header_timeout_s < 2  # each that is not answered would take so long, and then fail
    story.tell(tell)


def test_who_does_not_shake_hands_is_counted_and_dropped_in_time(story):
    def tell():
        crowd = [story.silent() for _ in range(LIMIT)]
        assert story.asked("/metrics")[0] == 503
        assert story.asked("/v2/health/live")[0] == 200  # there are places for that
        for raw in crowd:
            assert raw.recv(1) == b""  # after the time for headers
            raw.close()
        assert story.asked("/metrics")[0] == 200

    story.tell(tell)


def test_beyond_the_places_for_health_a_connection_is_ended_before_its_handshake(story):
    def tell():
        crowd = [story.silent() for _ in range(LIMIT + RESERVED)]
        try:
            with pytest.raises(OSError, match=r"reset|EOF|closed"):
                story.asked("/v2/health/live")
        finally:
            for raw in crowd:
                raw.close()

    story.tell(tell)


def test_idle_clients_and_half_shaken_hands_do_not_delay_the_end(story):
    kept = []

    def tell():
        connection = story.client()
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()
        kept.append(connection)  # open, and never reads a farewell
        kept.append(story.silent())

    assert story.tell(tell) < 10  # asyncio waits 30 s for a farewell, and 60 s for a handshake
    for connection in kept:
        connection.close()


def test_files_that_are_no_pair_are_named(pair, tmp_path):
    certificate, key = pair
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CertificateError, match=r"no certificate and its key: .*\. Name two PEM files that belong"):
        server_context(certificate, make_pair(other, "-nodes")[1])
    with pytest.raises(CertificateError, match="no certificate and its key"):
        server_context(*make_pair(other, "-passout", "pass:secret"))
    with pytest.raises(CertificateError, match="no certificate and its key"):
        server_context(key, certificate)
