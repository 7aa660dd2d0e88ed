# SPDX-License-Identifier: Apache-2.0
"""The Python and the command-line client, against running servers and against ones that misbehave."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.serving.client import Client, ClientError
from PIL import Image
from server_process import ServerProcess, photo, png


@contextmanager
def scripted(*answers):
    """A server that gives these (status, headers, body) in turn, or breaks the connection for None."""
    left = list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = left.pop(0)
            if answer is None:
                self.connection.close()
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", left
    finally:
        server.shutdown()
        server.server_close()


BUSY = (503, {"Retry-After": "0"}, b'{"error": "busy"}')


def test_labels_are_the_runtimes(server, expected):
    picture = photo(40, 50)
    with Client(server.url) as client:
        assert client.is_ready()
        np.testing.assert_array_equal(client.labels(png(picture)), expected("colors", picture))
        assert {model["name"] for model in client.models()} == {"colors", "means"}


def test_busy_servers_and_broken_connections_are_tried_again():
    with scripted(BUSY, None, (200, {}, b"done")) as (url, left):
        assert Client(url, retries=3).segment(b"x").body == b"done"
        assert left == []


def test_it_gives_up_after_its_retries_and_says_what_was_said():
    with scripted(*[BUSY] * 3) as (url, left):
        with pytest.raises(ClientError, match="answered 503: busy") as caught:
            Client(url, retries=2).segment(b"x")
        assert caught.value.status == 503
        assert left == []


def test_a_refusal_is_not_tried_again(server):
    with Client(server.url) as client, pytest.raises(ClientError, match="answered 400: the picture is not a picture"):
        client.segment(b"no picture")


def test_nobody_there_and_nonsense_urls_are_named():
    with pytest.raises(ClientError, match="does not answer"):
        Client("http://127.0.0.1:9", retries=1).segment(b"x")
    with pytest.raises(ClientError, match="is no server's URL"):
        Client("localhost:8000")


def test_a_server_that_never_answers_is_left():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClientError, match="timed out"):
            Client(url, timeout_s=0.2, retries=0).segment(b"x")


def test_the_command_writes_a_file_for_each_picture_and_lists_failures(server, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(photo(20, 30)))
    (folder / "b.png").write_bytes(b"broken")
    out = tmp_path / "out"
    facts = tmp_path / "facts.json"
    options = ["--output", str(out), "--as", "labels", "--json", str(facts)]
    assert main(["client", server.url, str(folder), *options]) == 1
    assert Image.open(out / "a.labels.png").size == (30, 20)
    assert sorted(path.name for path in out.iterdir()) == ["a.labels.png"]
    assert "b.png" in capsys.readouterr().err
    record = json.loads(facts.read_text())
    assert (len(record["pictures"]), len(record["failures"])) == (1, 1)


def test_the_command_never_overwrites_its_own_answers_or_pictures(server, tmp_path, capsys):
    for name in ("one/1.png", "one/1.bmp", "two/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(photo(8, 8)))
    one, two, out = (str(tmp_path / name) for name in ("one", "two", "out"))
    assert main(["client", server.url, one, two, "--output", out]) == 2
    assert "would be written under one name, 1_png." in capsys.readouterr().err
    assert main(["client", server.url, one, "--output", out, "--as", "labels"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1_bmp.labels.png", "1_png.labels.png"]
    assert main(["client", server.url, one, "--output", one]) == 2
    assert "one is the folder of the pictures, too" in capsys.readouterr().err


def test_the_command_says_what_is_wrong_on_one_line(tmp_path, capsys):
    picture = tmp_path / "a.png"
    picture.write_bytes(png(photo()))
    assert main(["client", "nonsense", str(picture)]) == 2
    assert capsys.readouterr().err == (
        "freqfusion client: 'nonsense' is no server's URL. Write it as http://127.0.0.1:8000.\n"
    )


def test_an_api_key_opens_the_guarded_routes_only_to_those_who_have_it(models, tmp_path):
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    server = ServerProcess([models["colors"]], "--api-key-file", str(key), folder=tmp_path)
    try:
        for path in ("/v2/health/ready", "/metrics", "/v2"):
            assert server.ask("GET", path)[0] == 200
        for path in ("/v1/models", "/v2/models/colors"):
            status, headers, _ = server.ask("GET", path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        with pytest.raises(ClientError, match="needs an API key"):
            Client(server.url, api_key="wrong").labels(png(photo()))
        assert Client(server.url, api_key="s3cret").labels(png(photo())).shape == (60, 80)

        import tritonclient.grpc
        import tritonclient.http

        grpc = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        assert grpc.is_server_ready()
        with pytest.raises(Exception, match="needs an API key"):
            grpc.get_model_metadata("colors")
        assert grpc.get_model_metadata("colors", headers={"x-api-key": "s3cret"}).name == "colors"
        http = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")
        assert http.get_model_metadata("colors", headers={"Authorization": "Bearer s3cret"})["name"] == "colors"
    finally:
        server.terminate()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes no certificate without openssl")
def test_tls_serves_both_protocols(models, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    options = ["--tls-key", str(key), "--tls-certificate", str(certificate)]
    server = ServerProcess([models["colors"]], *options, folder=tmp_path)
    try:
        assert server.lines[0].startswith("freqfusion serve: https://")
        with Client(f"https://127.0.0.1:{server.port}", certificate=certificate) as client:
            assert client.labels(png(photo())).shape == (60, 80)
        with pytest.raises(ClientError, match="certificate"):
            Client(f"https://127.0.0.1:{server.port}", retries=0).labels(png(photo()))
        import tritonclient.grpc

        address = f"127.0.0.1:{server.grpc_port}"
        grpc = tritonclient.grpc.InferenceServerClient(address, ssl=True, root_certificates=str(certificate))
        assert grpc.is_server_ready()
    finally:
        assert server.terminate() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "must be 0 to 65535"),
        (["--queue", "0"], "must be positive"),
        (["--deadline-ms", "nan"], "must be a number"),
        (["--tls-key", "x.pem"], "belong together"),
        (["--api-key-file", "/nowhere"], "cannot be read as the API key"),
    ],
)
def test_options_of_serve_that_make_no_sense_are_refused(models, capsys, options, message):
    try:
        status = main(["serve", str(models["colors"]), *options])
    except SystemExit as e:
        status = e.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(server, models, capsys):
    assert main(["serve", str(models["colors"]), "--port", str(server.port)]) == 2
    assert f"cannot listen on 127.0.0.1:{server.port}: address already in use" in capsys.readouterr().err
