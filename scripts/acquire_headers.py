# SPDX-License-Identifier: Apache-2.0
"""Finds the C headers of ONNX Runtime or TensorRT, fetching them if it must, and prints their folder.

    python scripts/acquire_headers.py onnxruntime|tensorrt [--into DIR] [--offline]

Sources are tried in the order of ``PACKAGES``: what the user names, what the machine has, what an earlier run fetched,
then the vendor and the package indexes this machine is already set up to use. What is fetched is signed (Debian's) or
has a SHA-256 that is known beforehand, and what is found is checked before it is used. Standard output holds the folder
alone; standard error says which source it is from and why those before it were passed over. Exit status 0, or 2 where
no source has the headers. Needs Python and nothing else, writes nothing outside ``--into``, needs no root.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITE = "trixie"  # the first Debian release with libonnxruntime-dev
CONNECT_SECONDS = 10
FETCH_SECONDS = 180
KERNEL_LENS_SHA256 = "07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0"  # of the wheel of 2.0.1


class Unavailable(Exception):
    """Why a source does not have the headers."""


@dataclass(frozen=True)
class Source:
    """One place to look.

    Attributes:
        title: What the user reads.
        find: Returns the folder of the headers; may fill the scratch folder it is given, which is then kept.
        online: Whether it asks the network.
    """

    title: str
    find: Callable[[Path], Path]
    online: bool = False


@dataclass(frozen=True)
class Package:
    """One set of headers.

    Attributes:
        title: Name in messages.
        files: Files the adapters include.
        version: File that states the version, and the pattern of the line that does.
        oldest: The oldest version the adapters compile against.
        sources: In order of preference.
        remedy: What to do where every source fails.
    """

    title: str
    files: tuple[str, ...]
    version: tuple[str, str]
    oldest: int
    sources: tuple[Source, ...]
    remedy: str


def check(package: Package, folder: Path) -> int:
    """Returns the version of the headers in ``folder``.

    Raises:
        Unavailable: If a needed file is missing or the version is too old.
    """
    missing = [name for name in package.files if not (folder / name).is_file()]
    if missing:
        raise Unavailable(f"{folder} lacks {', '.join(missing)}")
    name, pattern = package.version
    found = re.search(pattern, (folder / name).read_text(errors="replace"), re.MULTILINE)
    if found is None:
        raise Unavailable(f"{folder / name} does not state its version")
    version = int(found.group(1))
    if version < package.oldest:
        raise Unavailable(f"{folder} has version {version}, older than {package.oldest}")
    return version


def variable(name: str, *subfolders: str) -> Callable[[Path], Path]:
    """The folder an environment variable names, or the first of its ``subfolders`` that exists."""

    def find(_: Path) -> Path:
        value = os.environ.get(name)
        if not value:
            raise Unavailable(f"{name} is not set")
        return next((path for sub in subfolders if (path := Path(value) / sub).is_dir()), Path(value))

    return find


def system(name: str, *folders: str) -> Callable[[Path], Path]:
    """The first of ``folders`` that holds the file ``name``."""

    def find(_: Path) -> Path:
        for folder in folders:
            if (Path(folder) / name).is_file():
                return Path(folder)
        raise Unavailable(f"no {name} in {', '.join(folders)}")

    return find


def release_archive(scratch: Path) -> Path:
    """Unpacks the headers of an ONNX Runtime release: the archive ``ONNXRUNTIME_ARCHIVE`` names, or the vendor's.

    What is fetched must have the SHA-256 that ``ONNXRUNTIME_SHA256`` states: headers are code that is compiled in, and
    the vendor signs none of his archives.
    """
    chosen = os.environ.get("ONNXRUNTIME_ARCHIVE")
    expected = os.environ.get("ONNXRUNTIME_SHA256", "").lower()
    if chosen and Path(chosen).is_file():
        content = Path(chosen).read_bytes()
    else:
        version = next((v for name in ("onnxruntime", "onnxruntime-gpu") if (v := installed_version(name))), None)
        if not chosen and version is None:
            raise Unavailable("no onnxruntime is installed, so which release to fetch is unknown")
        url = chosen or (
            f"https://github.com/microsoft/onnxruntime/releases/download/v{version}/onnxruntime-linux-x64-{version}.tgz"
        )
        if not expected:
            raise Unavailable(f"{url} is fetched only where ONNXRUNTIME_SHA256 states its SHA-256")
        try:
            with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer:
                content = answer.read()
        except (OSError, ValueError) as error:
            raise Unavailable(f"{url}: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if expected and found != expected:
        raise Unavailable(f"the archive has SHA-256 {found}, ONNXRUNTIME_SHA256 states {expected}")
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".h"):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    (scratch / Path(member.name).name).write_bytes(stream.read())
    except tarfile.TarError as error:
        raise Unavailable(f"not a release archive: {error}") from error
    return scratch


def installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def debian_package(name: str, subfolder: str) -> Callable[[Path], Path]:
    """Downloads a Debian package of ``SUITE`` from the mirror that apt is set up with, and unpacks it.

    Works in a private apt state, so neither the machine's sources nor its package lists change, and as any user.
    Signatures are checked with the machine's own Debian keys.
    """

    def find(scratch: Path) -> Path:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise Unavailable(f"this machine has no {tool}")
        entries = list(dict.fromkeys(debian_entries(Path("/etc/apt"))))
        if not entries:
            raise Unavailable("apt is set up with no Debian source")
        with tempfile.TemporaryDirectory() as private:
            state = Path(private)
            for folder in ("lists/partial", "cache/archives/partial", "empty"):
                (state / folder).mkdir(parents=True)
            (state / "sources.list").write_text("".join(f"{entry}\n" for entry in entries))
            options = [
                f"Dir::Etc::SourceList={state / 'sources.list'}",
                f"Dir::Etc::SourceParts={state / 'empty'}",
                f"Dir::State::Lists={state / 'lists'}",
                f"Dir::Cache={state / 'cache'}",
                "Acquire::Languages=none",
                "Acquire::Retries=0",
                f"Acquire::http::Timeout={CONNECT_SECONDS}",
                f"Acquire::https::Timeout={CONNECT_SECONDS}",
                "APT::Sandbox::User=root",  # otherwise root's apt hands over to a user who cannot write here
            ]
            apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
            run_program([*apt, "update"], state)
            run_program([*apt, "download", name], state)
            for package in state.glob("*.deb"):
                run_program(["dpkg-deb", "-x", str(package), str(state / "unpacked")], state)
            headers = state / "unpacked" / subfolder
            if not headers.is_dir():
                raise Unavailable(f"{name} of {SUITE} holds no {subfolder}")
            shutil.copytree(headers, scratch, dirs_exist_ok=True)
        return scratch

    return find


def debian_entries(etc: Path) -> Iterator[str]:
    """One-line sources for ``SUITE`` on each mirror of a Debian release that apt's configuration in ``etc`` names."""
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not path.is_file() or path.suffix not in (".list", ".sources"):
            continue
        text = path.read_text(errors="replace")
        stanzas = one_line_sources(text) if path.suffix == ".list" else deb822_sources(text)
        for uris, suites, components, key in stanzas:
            releases = [suite for suite in suites if re.fullmatch(r"[a-z]+", suite)]  # not -updates, not -security
            if not releases or "main" not in components:
                continue
            signed = f"[signed-by={key}] " if key.startswith("/") else ""
            yield from (f"deb {signed}{uri} {SUITE} main" for uri in uris if re.match(r"[a-z+]+:/", uri))


def one_line_sources(text: str) -> Iterator[tuple[list[str], list[str], list[str], str]]:
    """The ``deb`` lines of a ``.list`` file as (addresses, suites, components, key file)."""
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if found:
            key = re.search(r"signed-by=(\S+)", found.group(1) or "")
            yield [found.group(2)], [found.group(3)], found.group(4).split(), key.group(1) if key else ""


def deb822_sources(text: str) -> Iterator[tuple[list[str], list[str], list[str], str]]:
    """The ``deb`` stanzas of a ``.sources`` file as (addresses, suites, components, key file)."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = {key.lower(): value for key, value in re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.M)}
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").strip().lower() != "no":
            wanted = (fields.get(key, "").split() for key in ("uris", "suites", "components"))
            uris, suites, components = wanted
            yield uris, suites, components, fields.get("signed-by", "").strip()


def wheel(requirement: str, sha256: str, subfolder: str) -> Callable[[Path], Path]:
    """Downloads a wheel with pip, from the index pip is set up with, and unpacks the headers in its ``subfolder``."""

    def find(scratch: Path) -> Path:
        with tempfile.TemporaryDirectory() as private:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            listed = Path(private) / "requirements.txt"
            listed.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="ascii")
            pip += ["--require-hashes", "--requirement", str(listed)]
            run_program([*pip, f"--timeout={CONNECT_SECONDS}", "--retries=1", f"--dest={private}"], Path(private))
            with zipfile.ZipFile(next(Path(private).glob("*.whl"))) as archive:
                for name in archive.namelist():
                    if Path(name).parent.as_posix().endswith(subfolder) and name.endswith(".h"):
                        (scratch / Path(name).name).write_bytes(archive.read(name))
        return scratch

    return find


def run_program(command: list[str], folder: Path) -> None:
    """Runs ``command`` in ``folder``.

    Raises:
        Unavailable: With the last thing it said, if it fails or does not end.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next((line for line in said if line.lower().startswith(("e:", "error"))), said[-1] if said else "")
        raise Unavailable(f"{Path(command[0]).name} ended with status {done.returncode}: {reason}")


PACKAGES = {
    "onnxruntime": Package(
        title="ONNX Runtime C headers",
        files=("onnxruntime_c_api.h", "onnxruntime_cxx_api.h", "onnxruntime_cxx_inline.h", "onnxruntime_float16.h"),
        version=("onnxruntime_c_api.h", r"^#define\s+ORT_API_VERSION\s+(\d+)"),
        oldest=17,  # KernelContext_ParallelFor and custom shape inference
        sources=(
            Source("ONNXRUNTIME_INCLUDE", variable("ONNXRUNTIME_INCLUDE", "onnxruntime", "include")),
            Source(
                "the system",
                system(
                    "onnxruntime_cxx_api.h",
                    "/usr/include/onnxruntime",
                    "/usr/local/include/onnxruntime",
                    "/usr/include/onnxruntime/core/session",
                ),
            ),
            Source("the vendor's release archive", release_archive, online=True),
            Source(
                f"Debian {SUITE}'s libonnxruntime-dev",
                debian_package("libonnxruntime-dev", "usr/include/onnxruntime"),
                online=True,
            ),
        ),
        remedy="install libonnxruntime-dev; or state the release archive's ONNXRUNTIME_SHA256; or unpack one and "
        "set ONNXRUNTIME_INCLUDE to its include folder. Until then ONNX files run on their function bodies: same "
        "results, slower",
    ),
    "tensorrt": Package(
        title="TensorRT headers",
        files=("NvInferRuntime.h", "NvInferRuntimePlugin.h", "NvInferPluginBase.h", "NvInferVersion.h"),
        version=("NvInferVersion.h", r"^#define\s+(?:TRT_MAJOR_ENTERPRISE|NV_TENSORRT_MAJOR)\s+(\d+)"),
        oldest=10,  # IPluginV3
        sources=(
            Source("TENSORRT_ROOT", variable("TENSORRT_ROOT", "include", "include/x86_64-linux-gnu")),
            Source(
                "the system",
                system(
                    "NvInfer.h",
                    "/usr/include/x86_64-linux-gnu",
                    "/usr/include/aarch64-linux-gnu",
                    "/usr/local/tensorrt/include",
                    "/usr/include",
                ),
            ),
            Source(
                "the wheel kernel-lens 2.0.1",
                wheel("kernel-lens==2.0.1", KERNEL_LENS_SHA256, "include/tensorrt"),
                online=True,
            ),
        ),
        remedy="install TensorRT's development package, or set TENSORRT_ROOT to an unpacked TensorRT. Until then there "
        "is no TensorRT plugin, and TensorRT runs ONNX files on their function bodies",
    ),
}


def acquire(name: str, into: Path, offline: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Returns a folder with the headers ``name``, a key of ``PACKAGES``; fetched ones are put in ``into / name``.

    Args:
        name: Key of ``PACKAGES``.
        into: Folder for fetched headers; appears whole or not at all.
        offline: Whether to leave out the sources that ask the network.
        say: Told, line by line, what was chosen and what was passed over.

    Raises:
        Unavailable: If no source has them; the message holds each source's reason and what to do.
    """
    package, kept = PACKAGES[name], into / name
    fetched_before = Source("an earlier run", system(package.files[0], str(kept)))
    local = [source for source in package.sources if not source.online]
    online = [source for source in package.sources if source.online and not offline]
    reasons = []
    for source in [*local, fetched_before, *online]:
        scratch = into / f".{name}.{os.getpid()}"
        try:
            if source.online:
                scratch.mkdir(parents=True)
            folder = source.find(scratch)
            version = check(package, folder)
            if folder == scratch:
                shutil.rmtree(kept, ignore_errors=True)
                with contextlib.suppress(OSError):  # a run beside this one was faster: its headers are as good
                    scratch.rename(kept)
                folder, version = kept, check(package, kept)
        except Unavailable as reason:
            reasons.append(f"{source.title}: {reason}")
        else:
            for passed_over in reasons:
                say(f"{package.title}: not from {passed_over}")
            say(f"{package.title}: version {version} from {source.title}, in {folder}")
            return folder.resolve()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    tried = "".join(f"  {passed_over}\n" for passed_over in reasons)
    raise Unavailable(f"{package.title} were not found:\n{tried}To have them: {package.remedy}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("--into", type=Path, default=ROOT / ".headers", help="folder for fetched headers (%(default)s)")
    parser.add_argument("--offline", action="store_true", help="leave out the sources that ask the network")
    args = parser.parse_args()
    try:
        print(acquire(args.package, args.into, args.offline, lambda line: print(line, file=sys.stderr)))
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
