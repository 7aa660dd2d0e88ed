# SPDX-License-Identifier: Apache-2.0
"""A certificate and a key are tried before anything listens."""

from __future__ import annotations

import subprocess

import pytest
from freqfusion_runtime.commands.cli import main
from freqfusion_runtime.serving.operation.tls import TlsPairError, check_tls_pair


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two pairs, and the first one's key with a password."""
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("one", "two"):
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
    locked = ["-in", str(folder / "one.key"), "-out", str(folder / "locked.key"), "-aes256", "-passout", "pass:secret"]
    subprocess.run(["openssl", "rsa", *locked], check=True, capture_output=True)
    (folder / "empty.pem").touch()
    return folder


def test_a_pair_is_taken(pairs):
    check_tls_pair(pairs / "one.pem", pairs / "one.key")


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("one.pem", "two.key", "key values mismatch"),
        ("one.key", "one.pem", ""),
        ("empty.pem", "one.key", ""),
        ("one.pem", "locked.key", ""),
        ("gone.pem", "one.key", "no such file"),
    ],
)
def test_what_does_not_belong_together_ends_in_a_sentence(pairs, certificate, key, reason):
    message = rf"{certificate} and .*{key} cannot be served with: .*{reason}.*\. Name a certificate and the private key"
    with pytest.raises(TlsPairError, match=message):
        check_tls_pair(pairs / certificate, pairs / key)


def test_the_command_says_so(pairs, capsys):
    arguments = ["--tls-certificate", str(pairs / "one.pem"), "--tls-key", str(pairs / "two.key")]
    assert main(["serve", "net.onnx", *arguments]) == 2
    assert "key values mismatch. Name a certificate and the private key" in capsys.readouterr().err
