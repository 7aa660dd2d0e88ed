# SPDX-License-Identifier: Apache-2.0
"""scripts/acquire_headers.py: the order of sources, what is checked, and what it says when there is nothing."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from compiled_libraries import ROOT

SCRIPT = ROOT / "scripts" / "acquire_headers.py"
sys.path.insert(0, str(SCRIPT.parent))

import acquire_headers  # noqa: E402
from acquire_headers import Unavailable, acquire, check  # noqa: E402

ORT = acquire_headers.PACKAGES["onnxruntime"]


def write_headers(folder: Path, version: int = 21) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ORT.files:
        (folder / name).write_text("#pragma once\n")
    (folder / ORT.version[0]).write_text(f"#pragma once\n#define ORT_API_VERSION {version}\n")
    return folder


def sources(*finders):
    """A package whose online sources are ``finders``."""
    found = tuple(acquire_headers.Source(f"source {i}", find, online=True) for i, find in enumerate(finders))
    return acquire_headers.Package(ORT.title, ORT.files, ORT.version, ORT.oldest, found, ORT.remedy)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("ONNXRUNTIME_INCLUDE", "ONNXRUNTIME_ARCHIVE", "TENSORRT_ROOT"):
        monkeypatch.delenv(name, raising=False)


def test_the_users_setting_comes_first(tmp_path, monkeypatch):
    chosen = write_headers(tmp_path / "release" / "include")
    write_headers(tmp_path / "kept" / "onnxruntime", version=19)
    monkeypatch.setenv("ONNXRUNTIME_INCLUDE", str(tmp_path / "release"))
    said = []
    assert acquire("onnxruntime", tmp_path / "kept", offline=True, say=said.append) == chosen
    assert said == [f"ONNX Runtime C headers: version 21 from ONNXRUNTIME_INCLUDE, in {chosen}"]


def test_a_setting_that_holds_no_headers_is_named_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXRUNTIME_INCLUDE", str(tmp_path))
    kept = write_headers(tmp_path / "kept" / "onnxruntime")
    monkeypatch.setitem(acquire_headers.PACKAGES, "onnxruntime", without_system())
    said = []
    assert acquire("onnxruntime", tmp_path / "kept", offline=True, say=said.append) == kept
    assert f"not from ONNXRUNTIME_INCLUDE: {tmp_path} lacks onnxruntime_c_api.h" in said[0]
    assert "version 21 from an earlier run" in said[-1]


def without_system() -> acquire_headers.Package:
    kept = tuple(source for source in ORT.sources if source.title != "the system")
    return acquire_headers.Package(ORT.title, ORT.files, ORT.version, ORT.oldest, kept, ORT.remedy)


def test_says_why_each_source_failed_and_what_to_do(tmp_path, monkeypatch):
    def refuse(_: Path) -> Path:
        raise Unavailable("no network")

    monkeypatch.setitem(acquire_headers.PACKAGES, "onnxruntime", sources(refuse))
    with pytest.raises(Unavailable, match=r"(?s)source 0: no network.*set ONNXRUNTIME_INCLUDE .*function bodies"):
        acquire("onnxruntime", tmp_path)
    assert not list(tmp_path.iterdir())


def test_fetched_headers_that_fail_the_check_leave_nothing_behind(tmp_path, monkeypatch):
    def old(scratch: Path) -> Path:
        return write_headers(scratch, version=16)

    def partial(scratch: Path) -> Path:
        (write_headers(scratch) / "onnxruntime_float16.h").unlink()
        return scratch

    monkeypatch.setitem(acquire_headers.PACKAGES, "onnxruntime", sources(old, partial))
    with pytest.raises(Unavailable, match=r"(?s)version 16, older than 17.*lacks onnxruntime_float16.h"):
        acquire("onnxruntime", tmp_path)
    assert not list(tmp_path.iterdir())

    monkeypatch.setitem(acquire_headers.PACKAGES, "onnxruntime", sources(old, write_headers))
    folder = acquire("onnxruntime", tmp_path)
    assert folder == tmp_path / "onnxruntime"
    assert check(ORT, folder) == 21
    assert [path.name for path in tmp_path.iterdir()] == ["onnxruntime"]


def test_reads_the_headers_of_a_release_archive(tmp_path, monkeypatch):
    write_headers(tmp_path / "tree" / "onnxruntime-linux-x64-1.21.0" / "include")
    archive = tmp_path / "release.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "tree", ".")
        outside = tarfile.TarInfo("../../outside.h")
        tar.addfile(outside, io.BytesIO())
    monkeypatch.setenv("ONNXRUNTIME_ARCHIVE", str(archive))
    monkeypatch.setitem(acquire_headers.PACKAGES, "onnxruntime", sources(acquire_headers.release_archive))
    folder = acquire("onnxruntime", tmp_path / "kept" / "deep")
    assert check(ORT, folder) == 21
    assert not (tmp_path / "outside.h").exists()
    assert not (tmp_path / "kept" / "outside.h").exists()


def test_a_release_is_fetched_only_with_its_hash_and_used_only_where_it_has_it(tmp_path, monkeypatch):
    archive = tmp_path / "release.tgz"
    write_headers(tmp_path / "tree" / "include")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "tree", ".")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("ONNXRUNTIME_ARCHIVE", archive.as_uri())
    with pytest.raises(Unavailable, match=r"release\.tgz is fetched only where ONNXRUNTIME_SHA256 states its SHA-256"):
        acquire_headers.release_archive(tmp_path / "scratch")
    monkeypatch.setenv("ONNXRUNTIME_SHA256", "ab" * 32)
    with pytest.raises(Unavailable, match=r"the archive has SHA-256 [0-9a-f]{64}, ONNXRUNTIME_SHA256 states (ab){32}"):
        acquire_headers.release_archive(tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    monkeypatch.setenv("ONNXRUNTIME_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest().upper())
    assert check(ORT, acquire_headers.release_archive(tmp_path / "scratch")) == 21


def test_a_release_that_cannot_be_reached_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXRUNTIME_ARCHIVE", "http://127.0.0.1:9/release.tgz")
    monkeypatch.setenv("ONNXRUNTIME_SHA256", "ab" * 32)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9/release\.tgz: .*refused"):
        acquire_headers.release_archive(tmp_path)


ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib  # trailing
deb [arch=amd64 signed-by=/usr/share/keyrings/some.gpg] https://other.example/debian sid main
deb http://security.example/debian-security bookworm-security main
deb https://vendor.example/tool stable tools
"""
DEB822 = """
Types: deb deb-src
# a comment within
URIs: http://first.example/debian
 http://second.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://security.example/debian
Suites: bookworm-security
Components: main
"""


def test_takes_mirrors_from_the_machines_own_apt_configuration(tmp_path):
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "old.list.save").write_text("deb http://saved.example/debian bookworm main\n")
    keyring = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    assert list(acquire_headers.debian_entries(tmp_path)) == [
        "deb http://mirror.example/debian trixie main",
        "deb [signed-by=/usr/share/keyrings/some.gpg] https://other.example/debian trixie main",
        f"deb {keyring}http://first.example/debian trixie main",
        f"deb {keyring}http://second.example/debian trixie main",
    ]


def test_unpacks_a_debian_package_through_a_private_apt(tmp_path, monkeypatch):
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        pytest.skip("this machine has no apt-get or no dpkg-deb")
    tree = tmp_path / "package"
    write_headers(tree / "usr" / "include" / "onnxruntime")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: libonnxruntime-dev\nVersion: 1.21\nArchitecture: all\nMaintainer: nobody\nDescription: test\n"
    )
    subprocess.run(["dpkg-deb", "-b", str(tree), str(tmp_path / "made.deb")], check=True, capture_output=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "sources.list").write_text("deb http://mirror.example/debian bookworm main\n")
    asked = []

    def run(command: list[str], folder: Path) -> None:
        asked.append([word for word in command if not word.startswith(("-", "Acquire", "APT"))])
        if "download" in command:
            assert "deb http://mirror.example/debian trixie main" in (folder / "sources.list").read_text()
            assert all(str(folder) in word for word in command if word.startswith("Dir::"))
            shutil.copy(tmp_path / "made.deb", folder)
        elif command[0] == "dpkg-deb":
            subprocess.run(command, check=True)

    monkeypatch.setattr(acquire_headers, "run_program", run)
    entries = acquire_headers.debian_entries
    monkeypatch.setattr(acquire_headers, "debian_entries", lambda _: entries(tmp_path / "etc"))
    find = acquire_headers.debian_package("libonnxruntime-dev", "usr/include/onnxruntime")
    monkeypatch.setitem(acquire_headers.PACKAGES, "onnxruntime", sources(find))
    assert check(ORT, acquire("onnxruntime", tmp_path / "kept")) == 21
    assert [command[-1] for command in asked[:2]] == ["update", "libonnxruntime-dev"]


def test_takes_headers_out_of_a_wheel(tmp_path, monkeypatch):
    def run(command: list[str], folder: Path) -> None:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--require-hashes" in command
        listed = (folder / "requirements.txt").read_text()
        assert listed == f"kernel-lens==2.0.1 --hash=sha256:{acquire_headers.KERNEL_LENS_SHA256}\n"
        with zipfile.ZipFile(folder / "kernel_lens-2.0.1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("kernel_lens/include/tensorrt/NvInferVersion.h", "#define TRT_MAJOR_ENTERPRISE 10\n")
            for name in ("NvInferRuntime.h", "NvInferRuntimePlugin.h", "NvInferPluginBase.h"):
                wheel.writestr(f"kernel_lens/include/tensorrt/{name}", "")
            wheel.writestr("kernel_lens/include/other/stray.h", "")

    monkeypatch.setattr(acquire_headers, "run_program", run)
    package = acquire_headers.PACKAGES["tensorrt"]
    online = tuple(source for source in package.sources if source.online)
    alone = acquire_headers.Package(
        package.title, package.files, package.version, package.oldest, online, package.remedy
    )
    monkeypatch.setitem(acquire_headers.PACKAGES, "tensorrt", alone)
    folder = acquire("tensorrt", tmp_path)
    assert check(alone, folder) == 10
    assert len(list(folder.iterdir())) == 4


def test_a_command_that_fails_is_quoted(tmp_path):
    with pytest.raises(Unavailable, match="ended with status 3: E: no such suite"):
        acquire_headers.run_program(
            [sys.executable, "-c", "import sys; print('E: no such suite'); sys.exit(3)"], tmp_path
        )
    with pytest.raises(Unavailable, match="no-such-program"):
        acquire_headers.run_program(["no-such-program"], tmp_path)


def test_prints_the_folder_alone_and_ends_with_two_where_there_is_none(tmp_path):
    headers = write_headers(tmp_path / "given")
    command = [sys.executable, str(SCRIPT), "onnxruntime", "--offline", "--into", str(tmp_path / "kept")]
    environment = {"PATH": "/usr/bin:/bin", "ONNXRUNTIME_INCLUDE": str(headers)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, f"{headers}\n")
    assert "from ONNXRUNTIME_INCLUDE" in done.stderr

    if Path("/usr/include/onnxruntime").exists():
        pytest.skip("this machine has ONNX Runtime's headers installed")
    environment["ONNXRUNTIME_INCLUDE"] = str(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "To have them: install libonnxruntime-dev" in done.stderr
