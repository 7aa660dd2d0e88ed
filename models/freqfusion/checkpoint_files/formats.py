# SPDX-License-Identifier: Apache-2.0
"""Reads a file of weights by what it holds, whatever its suffix, or a folder of several."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freqfusion.checkpoint_files.torch_files import CONSTRUCTORS, is_legacy, read_legacy, read_zip
from freqfusion.checkpoint_files.unpickling import unpickle
from freqfusion.errors import CheckpointError

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FOREIGN = (  # how files begin that are often in a checkpoint's place, and what to do about each
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to; run `git lfs pull`"),
    (b"<", "a web page or XML; the download went wrong, fetch it again"),
    (b"\x1f\x8b", "gzip; unpack it first"),
    (b"\x89HDF", "HDF5, not a PyTorch checkpoint; convert it first"),
    (b"\x93NUMPY", "a single numpy array, not a checkpoint"),
)


def read_content(path: Path) -> Any:
    """Reads what a file, a folder with an index, or that index holds; runs no code from it.

    Returns:
        What was saved; of safetensors, ``state_dict`` and ``meta``.

    Raises:
        CheckpointError: If it is missing, truncated, hostile or of another format.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); fetch it again")
    with path.open("rb") as file:
        start = file.read(512)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    for beginning, kind in _FOREIGN:
        if start.startswith(beginning):
            raise CheckpointError(f"{path} cannot be read as a checkpoint: it is {kind}")
    if start[257:262] == b"ustar":
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is a tar archive, as PyTorch before 0.1.10 wrote it. "
            "Load it there and save it again"
        )
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _read_safetensors(path)
    try:
        if start.startswith(b"PK\x03\x04"):
            return read_zip(path)
        with path.open("rb") as file:
            return read_legacy(file) if is_legacy(start) else unpickle(file, constructors=CONSTRUCTORS)
    except CheckpointError as e:
        raise CheckpointError(f"{path}: {e}") from e
    except Exception as e:  # a hostile or truncated file can raise anything while it is parsed
        reason = str(e).split("\n")[0][:200] or type(e).__name__
        raise CheckpointError(
            f"{path} ({size} bytes) cannot be read as a checkpoint: {reason}. "
            "It is truncated or of another format; fetch it again and compare its checksum"
        ) from e


def files_of(path: str | Path) -> tuple[Path, ...]:
    """The files that hold the checkpoint ``path``: itself, or a folder's index and the shards it names, by name.

    Raises:
        CheckpointError: If it is a folder without a checkpoint, or an index that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        path = _entry_of(path)
    if not path.name.endswith(".index.json"):
        return (path,)
    return (path, *(path.parent / name for name in sorted(set(_weight_map(path).values()))))


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as e:
        raise CheckpointError(f"{path}: reading safetensors needs `pip install 'freqfusion-deploy[export]'`") from e
    try:
        with safe_open(path, "pt") as file:
            meta = {key: _parsed(text) for key, text in (file.metadata() or {}).items()}
            return {"state_dict": {name: file.get_tensor(name) for name in file.keys()}, "meta": meta}  # noqa: SIM118
    except (SafetensorError, ValueError, AttributeError) as e:  # AttributeError: a type that this PyTorch lacks
        raise CheckpointError(f"{path} cannot be read as safetensors: {e}. Fetch it again") from e


def _parsed(text: str) -> Any:
    """Takes lists and objects for what they are; safetensors metadata is text."""
    try:
        return json.loads(text) if text[:1] in ("[", "{") else text
    except (ValueError, RecursionError):
        return text


def _read_folder(folder: Path) -> Any:
    return read_content(_entry_of(folder))


def _entry_of(folder: Path) -> Path:
    """The file of a folder from which its checkpoint is read: an index, or the only file of weights."""
    if (folder / ".metadata").is_file():
        raise CheckpointError(
            f"{folder} is a checkpoint of torch.distributed.checkpoint. Turn it into one file first: "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    indexes = [folder / name for name in _INDEXES if (folder / name).is_file()]
    found = indexes or sorted(folder.glob("*.index.json"))
    if not found:
        found = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pth", ".pt", ".pkl"))
    if indexes or len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found[:10])
    raise CheckpointError(
        f"{folder} is a folder with {len(found)} checkpoints and without an index such as {_INDEXES[0]}"
        + (f": {names}; name one of them" if found else "; name a file")
    )


def _read_shards(index: Path) -> dict[str, Any]:
    weight_map = _weight_map(index)
    state_dict: dict[str, Any] = {}
    for shard in sorted(set(weight_map.values())):
        if not os.path.isfile(index.parent / shard):
            raise CheckpointError(f"{index} names the shard {shard}, which is not beside it; fetch it too")
        content = read_content(index.parent / shard)
        held = content.get("state_dict", content) if isinstance(content, Mapping) else {}
        names = [name for name, place in weight_map.items() if place == shard]
        absent = [name for name in names if name not in held]
        if absent:
            raise CheckpointError(
                f"{index} names {len(absent)} entries that its shard {shard} does not have, such as {absent[0]!r}; "
                "fetch all files again"
            )
        state_dict |= {name: held[name] for name in names}
    return {"state_dict": state_dict}


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = list(weight_map.items())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{index} is no index of shards: a JSON object with a weight_map is expected") from e
    for name, shard in pairs:
        if not isinstance(shard, str) or Path(shard).name != shard or shard.endswith(".index.json"):
            raise CheckpointError(f"{index} names the shard {shard!r} for {name}; only files beside it are read")
    return dict(pairs)
