# SPDX-License-Identifier: Apache-2.0
"""Finds the model's weights in what a file holds: wrappers, prefixes, averages and the training's own entries go."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from freqfusion.checkpoint_files.placeholders import Inert, as_mapping, module_entries
from freqfusion.checkpoint_files.plain_data import Array, EmptyTensor
from freqfusion.errors import CheckpointError

Choice = Literal["model", "ema"]
"""The weights as trained, or running averages of them."""

# Names of dictionaries of weights; of several, the first is taken.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "module", "network", "net", "weights", "params", "student")
_AVERAGED = re.compile(r"(^|_)(ema|swa|averaged?|teacher)(_|$)")
_BESIDE = re.compile(r"(^|_)(optim\w*|schedulers?|scaler|meta|message_hub|callbacks|loops|rng\w*)(_|$)")
_DEEPEST = 6
# First parts of names, which wrappers put there; none of the models' own names begins so.
_WRAPPERS = {"module", "model", "net", "network", "segmentor", "detector", "student"}
# Parts that wrappers put anywhere in a name.
_INNER_WRAPPERS = {"_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_TRAINING = re.compile(r"(^|\.)(auxiliary_head|aux_head|loss(es)?|loss_\w+|\w+_loss|criterion)\.")
# Other names of the same entries, the official ones, and what to say.
_OTHER_NAMES = (
    (
        # mmseg since 0.31 has one level less here than the official SegNeXt, on which FreqFusion is built.
        re.compile(r"^(backbone\.block\d+\.\d+\.mlp\.dwconv)\.(weight|bias)$"),
        r"\1.dwconv.\2",
        "mlp.dwconv of mmseg since 0.31 is mlp.dwconv.dwconv here",
    ),
    (
        re.compile(r"^(sem_seg_head\.predictor\..*)static_query"),
        r"\1query_feat",
        "static_query of older Mask2Former is query_feat here",
    ),
    (
        re.compile(r"^sem_seg_head\.(?!pixel_decoder\.|predictor\.)"),
        "sem_seg_head.pixel_decoder.",
        "sem_seg_head of older Mask2Former is sem_seg_head.pixel_decoder here",
    ),
)


@dataclass(frozen=True)
class _Set:
    """Weights of one network: where they lie in the file, their kind, entries by official name, what was done."""

    path: tuple[str, ...]
    is_averaged: bool
    entries: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)

    @property
    def kind(self) -> Choice:
        return "ema" if self.is_averaged else "model"

    def is_inside(self, path: tuple[str, ...]) -> bool:
        return self.path != path and self.path[: len(path)] == path

    def __str__(self) -> str:
        return " > ".join(map(repr, self.path)) or "the file itself"


def find_weights(content: Any, choice: Choice | None = None) -> tuple[dict[str, Tensor], Choice, tuple[str, ...]]:
    """Finds the weights and gives their entries the official names.

    Args:
        content: What the file holds.
        choice: Which to take of a file that holds both; None takes the model's, and of mmengine's files, in which
            ``state_dict`` holds the averages, those.

    Returns:
        The weights by name, which they are, and what was taken, stripped, renamed and left out, a sentence each.

    Raises:
        CheckpointError: If there are no weights, not those asked for, or several kinds of them.
    """
    sets = [found for path, entries in _dictionaries(content, (), set()) for found in _sets_of(path, entries)]
    if not sets:
        holder = as_mapping(content)
        if holder is None:
            kind = content.name if isinstance(content, Inert) else type(content).__name__
            raise CheckpointError(f"it holds a {kind}, not a dictionary of weights")
        raise CheckpointError(f"it holds no weights; keys found: {sorted(map(str, holder))[:10]}")
    most = max(len(found.entries) for found in sets)
    sets = [found for found in sets if 2 * len(found.entries) >= most]  # less is a counter, or a part of a network
    # A dictionary around a larger one is a wrapper; one inside a larger one belongs to an entry.
    sets = [s for s in sets if not any(t.is_inside(s.path) and len(t.entries) > len(s.entries) for t in sets)]
    sets = [s for s in sets if not any(s.is_inside(t.path) for t in sets)]
    notes: list[str] = []
    usual: Choice = "model"
    if _is_swapped(content, sets):
        sets = [_Set(found.path, not found.is_averaged, found.entries, found.notes) for found in sets]
        notes.append("'state_dict' holds the averages: mmengine puts them there when it saves")
        usual = "ema"
    kinds = {found.kind for found in sets}
    taken = choice if choice is not None else usual if usual in kinds else sets[0].kind
    if taken not in kinds:
        raise CheckpointError(f"it holds no {_KINDS[taken]}, only {_KINDS[sets[0].kind]} in {sets[0]}; choose these")
    chosen = _only([found for found in sets if found.kind == taken])
    others = [found for found in sets if found.kind != taken]
    if chosen.path not in ((), ("state_dict",)):
        notes.append(f"took the entries of {chosen}")
    if others:
        notes.append(f"took the {_KINDS[taken]}; there are {_KINDS[others[0].kind]} too, in {others[0]}")
    elif taken == "ema":
        notes.append(f"took the {_KINDS[taken]}; there are no others")
    return chosen.entries, taken, (*notes, *chosen.notes)


_KINDS: dict[Choice, str] = {"model": "weights as trained (model)", "ema": "averaged weights (ema)"}


def _dictionaries(
    value: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Finds the dictionaries that hold tensors, and whole modules, and where; each once, however often it is named."""
    if id(value) in seen:
        return
    seen.add(id(value))
    entries = as_mapping(value) or module_entries(value)
    if any(isinstance(entry, Tensor | Array | EmptyTensor) for entry in entries.values()):
        yield path, entries
    if len(path) < _DEEPEST:
        for key, inner in entries.items():
            if isinstance(key, str) and not _BESIDE.search(key):
                yield from _dictionaries(inner, (*path, key), seen)


def _sets_of(path: tuple[str, ...], entries: Mapping[Any, Any]) -> list[_Set]:
    """Sorts the entries of one dictionary into sets, and gives them official names."""
    names: dict[bool, dict[str, str]] = {False: {}, True: {}}  # by whether averaged: the entry of each official name
    stripped: Counter[str] = Counter()
    renamed: Counter[str] = Counter()
    notes: list[str] = []
    averaged_path = any(_AVERAGED.search(key) for key in path)
    tensors = {name: tensor for name, value in entries.items() if (tensor := _tensor(value)) is not None}
    strange = [name for name, value in entries.items() if isinstance(value, Inert | Array) and name not in tensors]
    if strange:
        notes.append(f"left out {_listed(strange)}: no plain tensors")
    tensors = {str(name): tensor for name, tensor in tensors.items()}
    outside = _outside(tensors)
    if outside:
        notes.append(f"left out {_listed(outside)}: outside the wrapped model")
    training = [name for name in tensors if name not in outside and _TRAINING.search(name)]
    if training:
        notes.append(f"left out {_listed(training)}: only training uses them")
    for full in tensors:
        if full in outside or _TRAINING.search(full):
            continue
        prefix, name = _split(full)
        stripped[prefix] += 1
        is_averaged = averaged_path or any(_AVERAGED.search(part) for part in prefix.split("."))
        for other, official, remark in _OTHER_NAMES:
            name, found = other.subn(official, name)
            renamed[remark] += found
        if name in names[is_averaged]:
            twin = names[is_averaged][name]
            raise CheckpointError(f"it holds two entries for {name}: {twin!r} and {full!r}; save one of them")
        names[is_averaged][name] = full
    notes += [f"stripped {prefix!r} from {count} names" for prefix, count in stripped.items() if prefix]
    # mmcv 1's EMAHook keeps the second set in buffers: "ema_" and the name with underscores.
    twins = {f"ema_{name.replace('.', '_')}": name for name in names[False]}
    flat = {twins[name]: names[False].pop(name) for name in list(names[False]) if name in twins}
    if flat:
        names[True] |= {**names[False], **flat}
    notes += [f"renamed {count} entries: {remark}" for remark, count in renamed.items() if count]
    return [
        _Set(path, is_averaged, {name: tensors[full] for name, full in found.items()}, notes)
        for is_averaged, found in names.items()
        if found
    ]


def _outside(names: Mapping[str, Any]) -> list[str]:
    """Finds entries beside a wrapped model: without its prefix, and of no module that has entries with it."""
    roots = {name: _split(name)[1].partition(".")[0] for name in names}
    wrapped = {root for name, root in roots.items() if root != name.partition(".")[0]}
    bare = [name for name, root in roots.items() if root == name.partition(".")[0] and root not in wrapped]
    return bare if 2 * len(bare) < len(names) else []


def _split(name: str) -> tuple[str, str]:
    """Splits a name into what wrappers put into it, with a dot behind each part, and the rest."""
    kept = [part for part in name.split(".") if part not in _INNER_WRAPPERS]
    removed = [part for part in name.split(".") if part in _INNER_WRAPPERS]
    while len(kept) > 1 and (kept[0] in _WRAPPERS or _AVERAGED.search(kept[0])):
        removed.append(kept.pop(0))
    return "".join(f"{part}." for part in removed), ".".join(kept)


def _is_swapped(content: Any, sets: Sequence[_Set]) -> bool:
    """Whether mmengine's EMAHook saved this: it swaps the two, so that ``state_dict`` can be deployed as it is."""
    meta = as_mapping((as_mapping(content) or {}).get("meta")) or {}
    return "mmengine_version" in meta and {found.path for found in sets} == {("state_dict",), ("ema_state_dict",)}


def _only(sets: Sequence[_Set]) -> _Set:
    if len(sets) == 1:
        return sets[0]
    for name in _CONTAINERS:
        named = [found for found in sets if found.path[:1] == (name,)]
        if len(named) == 1:
            return named[0]
    places = ", ".join(map(str, sets[:10]))
    raise CheckpointError(f"it holds {len(sets)} sets of weights, in {places}; save the one that is meant alone")


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Array):
        return value.tensor()
    tensor = value.tensor if isinstance(value, EmptyTensor) else value
    return tensor if isinstance(tensor, Tensor) else None


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} entries ({shown})" if len(names) > 1 else f"1 entry ({shown})"
