# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, folders that do not outlive their owner, hashes, and JSON for every reader."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from freqfusion_runtime.errors import OutputError

if sys.platform != "win32":
    import fcntl

_MARK = ".partial"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SCRATCH = re.compile(r"\.?freqfusion-[a-z-]+-[0-9a-f]{8}\.scratch")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that becomes ``path`` when the block ends well.

    The temporary file has the same suffix, since writers choose a format by it. If the block raises, the temporary
    file is removed and an existing ``path`` stays as it was. What an earlier, killed process left behind for the same
    target is removed first; a file that a living process is still writing is locked and is left alone. Missing parent
    folders are made.

    Raises:
        OutputError: If the folder or the file cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise OutputError(target, "it is a folder")
    make_folder(target.parent)
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{_MARK}{target.suffix}")
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as e:
        raise OutputError(target, _reason(e)) from e
    try:
        _lock(handle)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as e:
        # Only failures of this file are ours to word; another file's error passes as it is.
        if e.filename is None or Path(os.fsdecode(e.filename)) in (temporary, target):
            raise OutputError(target, _reason(e)) from e
        raise
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(purpose: str, place: Path | None = None) -> Iterator[Path]:
    """Yields a new folder, readable by this user alone, that is removed when the block ends.

    It is locked as long as its process lives, so that whoever makes the next one beside it can tell and remove what a
    killed process left. It may be moved away inside the block.

    Args:
        purpose: Lower-case letters and hyphens, for who finds it.
        place: Where to make it, hidden there; None for the folder for temporary files.

    Raises:
        OutputError: If it cannot be made, or the block finds no room for what it writes.
    """
    parent = place or Path(os.environ.get("TMPDIR", "/tmp"))  # for the message, where Python finds none to write to
    try:
        parent = place or Path(tempfile.gettempdir())
        remove_abandoned(parent)
        folder, handle = _locked_folder(parent, f"{'.' if place else ''}freqfusion-{purpose}")
    except OSError as e:
        raise OutputError(parent, _reason(e)) from e
    try:
        yield folder
    except OSError as e:
        if e.errno not in _NO_ROOM:
            raise
        raise OutputError(
            parent,
            f"{_reason(e)} while {shutil.disk_usage(parent).free} bytes were free"
            + ("" if place else "; the variable TMPDIR names the folder for temporary files"),
        ) from e
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def remove_abandoned(parent: Path) -> None:
    """Removes the scratch folders in ``parent`` whose process was killed; those of others are not touched."""
    if sys.platform == "win32":
        return  # no flock, and nothing else that tells the dead from the living
    with os.scandir(parent) as entries:
        found = [entry.path for entry in entries if _SCRATCH.fullmatch(entry.name)]
    for path in found:
        with contextlib.suppress(OSError):  # in use, gone already, or somebody else's
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Makes a folder and its parents where they are missing.

    Raises:
        OutputError: If it cannot be made, or something that is no folder has its name.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as e:
        raise OutputError(folder, "it is a file, not a folder") from e
    except OSError as e:
        raise OutputError(folder, _reason(e)) from e
    return folder


def json_text(content: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """Writes JSON as its standard has it: a number that is infinite or not a number becomes null."""
    try:
        return json.dumps(content, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(finite(content), indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)


def finite(content: Any) -> Any:
    """Puts None in the place of every number that is infinite or not a number, in lists and records of any depth."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    return [finite(value) for value in content] if isinstance(content, list | tuple) else content


def check_stays(root: str | os.PathLike[str], path: Path) -> None:
    """Makes sure that what is written at ``path`` lands in ``root``, into which others may have put links.

    Raises:
        OutputError: If it is a link that leads elsewhere, or a folder on the way is.
    """
    base, real = os.path.realpath(root), os.path.realpath(path)
    if os.path.commonpath([base, real]) != base:
        raise OutputError(path, f"a link in {os.fspath(root)} leads out of it, to {real}")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file to read it, if it is one: a FIFO would keep its reader waiting, and a device may have no end.

    Raises:
        OSError: If it cannot be read; of anything but a regular file, ``strerror`` says what it is.
    """
    # Without O_NONBLOCK, opening a FIFO waits for somebody to write.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {kind_of(mode)}, not a regular file", os.fspath(path))
    return open(handle, "rb")


def kind_of(mode: int) -> str:
    """Names what is in a file's place, by its ``st_mode``."""
    kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    kinds |= {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFREG: "a regular file"}
    return kinds.get(stat.S_IFMT(mode), "something else")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hashes a file's bytes: 64 lower-case hexadecimal digits."""
    with Path(path).open("rb") as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """Hashes what is left of an open file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def mark_in_use(file: BinaryIO) -> None:
    """Keeps :func:`is_in_use` true of an open file until it is closed, in any number of processes at a time."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_in_use(path: Path) -> bool:
    """Whether a living process marked a file; on Windows an open file cannot be removed anyway."""
    return sys.platform != "win32" and _is_locked(path)


def _locked_folder(parent: Path, start: str) -> tuple[Path, int | None]:
    while True:
        folder = parent / f"{start}-{secrets.token_hex(4)}.scratch"
        try:
            folder.mkdir(0o700)
        except FileExistsError:
            continue
        if sys.platform == "win32":
            return folder, None
        handle = None
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(folder), os.fstat(handle)):
                return folder, handle
        except (BlockingIOError, FileNotFoundError):
            pass  # somebody took it for abandoned between our two steps
        except OSError:
            return folder, handle  # a file system without locks, on which nobody takes it for abandoned either
        if handle is not None:
            os.close(handle)


def _remove_leftovers(target: Path) -> None:
    for leftover in target.parent.iterdir():
        name = leftover.name
        if not (name.startswith(f".{target.stem}.") and name.endswith(_MARK + target.suffix)):
            continue
        token = name[len(target.stem) + 2 : -len(_MARK + target.suffix)]
        if len(token) == 8 and not _is_locked(leftover):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)


def _lock(handle: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # a file system without locks: leftovers are then removed at once
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_locked(path: Path) -> bool:
    if sys.platform == "win32":
        return True  # no flock: leave the file to its owner
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
