# SPDX-License-Identifier: Apache-2.0
"""Finds out what becomes of every test-time setting in public mm configs.

    python benchmarks/public_configs.py FOLDER --fetch --results benchmarks/results/public_configs.jsonl

Takes the configs of Faster R-CNN, Mask R-CNN, Panoptic FPN and SegNeXt, and the test pipelines of all other semantic
segmenters, from the wheels and repositories in ``SOURCES``, which ``--fetch`` brings to FOLDER (a repository may also
be unpacked there by hand). mmengine (`pip install mmengine==0.10.7`), which executes configs as training does, writes
them out; FreqFusion is put where it belongs. Then each setting is given another value, and our reading repeated: what
it builds, refuses or tells changes, or the setting is one of ``settings_without_effect``, or it is lost without a
trace, which is a fault. A text of the config and the short file with ``_base_`` must be read alike.

The results are a line of counts, and the list of what was read beside it (.txt), whose hash is in the line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from changed_settings import fate_of, leaves
from freqfusion.configs.findings import Settings
from freqfusion.configs.reader import read_config
from freqfusion.configs.settings import settings_from_file, settings_of
from settings_without_effect import READ_IN_TESTS, reason_of

WITHOUT_EFFECT = "without effect in tests"
DETECTORS = ("FasterRCNN", "MaskRCNN", "PanopticFPN")
_PARTS = ("backbone", "neck", "decode_head", "auxiliary_head")  # of other segmenters, left out
_LAYERS = {18: 2, 34: 6, 50: 6, 101: 23, 152: 36}  # blocks of a ResNet's third stage


@dataclass(frozen=True)
class Source:
    """Where configs come from.

    Attributes:
        name: A pinned wheel of PyPI, or a repository at a commit.
        sha256: Of the wheel.
        folders: In it, with configs.
    """

    name: str
    folders: tuple[str, ...]
    sha256: str = ""

    @property
    def folder(self) -> str:
        """The name of the folder it is unpacked to."""
        return self.name.rpartition("/")[2].partition("@")[0]


SOURCES = (
    Source(
        "mmdet==2.28.2",
        ("mmdet/.mim/configs",),
        "30ac4dc275f838397872a4d43f77541e46cf8dc8431f796ddf10d7e4adfd9fe4",
    ),
    Source(
        "mmdet==3.3.0",
        ("mmdet/.mim/configs",),
        "2e23e291281ac57e7dccf8678e957da45fbe560ce78a1f5ded6afeccd3730f17",
    ),
    Source(
        "mmsegmentation==0.30.0",
        ("mmseg/.mim/configs",),
        "6a6523d3068e4773410bd5893fc40f198def255ec2bb32cacc25a6ffa0668458",
    ),
    Source(
        "mmsegmentation==1.2.2",
        ("mmseg/.mim/configs",),
        "dadf62bba00a65947d71b08471bc1fe2fee8e2d6eb740381eecd03991e204b47",
    ),
    Source("github.com/Visual-Attention-Network/SegNeXt@c87bcaef22ed2ad72ed3decb3727e5f879343516", ("local_configs",)),
    Source(
        "github.com/Linwei-Chen/FreqFusion@3fb0c70637a3c194fb74294d3ce4681958b26241",
        ("SegNeXt/local_configs", "mmdetection/configs"),
    ),
)


def fetch(folder: Path) -> None:
    """Brings the sources that are not there."""
    for source in SOURCES:
        place = folder / source.folder
        if place.is_dir():
            continue
        if source.sha256:
            requirement = folder / "requirement.txt"
            requirement.write_text(f"{source.name} --hash=sha256:{source.sha256}\n")
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:"]
            subprocess.run([*pip, "-d", str(folder), "-r", str(requirement)], check=True)
            requirement.unlink()
            wheel = next(folder.glob(f"{source.name.replace('==', '-')}-*.whl"))
            subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(place)], check=True)
        else:
            address, _, commit = source.name.partition("@")
            git = ["git", "-c", "advice.detachedHead=false"]
            subprocess.run([*git, "clone", "--no-checkout", f"https://{address}", str(place)], check=True)
            subprocess.run([*git, "-C", str(place), "checkout", commit], check=True)


@dataclass(frozen=True)
class Public:
    """One config.

    Attributes:
        path: Of the short file.
        name: Source and path there, as listed.
        values: Written out by mmengine, with FreqFusion put in.
        shapes: Of the entries of a checkpoint that the reader looks at.
        family: The network's.
    """

    path: Path
    name: str
    values: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    family: str

    @property
    def weights(self) -> dict[str, Any]:
        """Stand-ins for a checkpoint's entries."""
        return {name: SimpleNamespace(shape=shape) for name, shape in self.shapes.items()}

    @property
    def tested(self) -> dict[str, Any]:
        """What mm's test programs read of it."""
        return {name: value for name, value in self.values.items() if name in READ_IN_TESTS}


def configs_in(folder: Path) -> Iterator[Public]:
    """Gives every config of the families; what mmengine wrote out is kept in the folder, since that takes minutes."""
    kept = folder / "written_out.pickle"
    if not kept.is_file():
        kept.write_bytes(pickle.dumps(list(_written_out(folder))))
    folders = {source.name: source.folder for source in SOURCES}
    for source, path, values in pickle.loads(kept.read_bytes()):
        if (found := _with_freqfusion(values)) is not None:
            yield Public(folder / folders[source] / path, f"{source} {path}", *found)


def _written_out(folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    from mmengine.config import Config

    for source in SOURCES:
        for part in source.folders:
            for path in sorted((folder / source.folder / part).rglob("*.py")):
                if "_base_" in path.parts:
                    continue
                try:
                    values = Config.fromfile(path, import_custom_modules=False).to_dict()
                except Exception as e:  # mmengine's own refusals: dumps of other programs among the configs
                    print(f"{path}: mmengine cannot read it: {e}", file=sys.stderr)
                    continue
                yield source.name, path.relative_to(folder / source.folder).as_posix(), values


def _with_freqfusion(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], str] | None:
    """Puts FreqFusion where one would to train with it; None for other families."""
    model = values.get("model")
    if not isinstance(model, dict):
        return None
    kind = model.get("type")
    if kind in DETECTORS:
        if isinstance(model.get("neck"), dict) and model["neck"].get("type") == "FPN":
            model["neck"]["type"] = "FreqFusionCARAFEFPN"
        return values, _shapes_of_detector(model), kind
    if kind != "EncoderDecoder":
        return None
    head = model.get("decode_head")
    if not isinstance(head, dict) or model.get("backbone", {}).get("type") != "MSCAN":
        values["model"] = {key: part for key, part in model.items() if key not in _PARTS}
        return values, {"decode_head.conv_seg.weight": (150,)}, "other segmenters"
    head["type"] = "LightHamHeadFreqAware"
    return values, {"decode_head.conv_seg.weight": (head["num_classes"],)}, "SegNeXt"


def _shapes_of_detector(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    head = model.get("roi_head", {}).get("bbox_head", {})
    things = head.get("num_classes", 80) if isinstance(head, dict) else 80
    blocks = _LAYERS.get(model.get("backbone", {}).get("depth"), 6)
    sizes = {"roi_head.bbox_head.fc_cls.weight": things + 1, f"backbone.layer3.{blocks - 1}.conv1.weight": 256}
    if "semantic_head" in model:
        sizes["semantic_head.conv_logits.weight"] = model["semantic_head"].get("num_stuff_classes", 53) + 1
    return {name: (size,) for name, size in sizes.items()}


def read_otherwise(config: Public, settings: Settings) -> list[str]:
    """Names the forms of a config that are read otherwise: its tested part alone, its text, its short file."""
    text = "\n".join(f"{name} = {value!r}" for name, value in config.values.items() if name.isidentifier())
    forms = {"tested part": config.tested, "text": text}
    wrong = [name for name, form in forms.items() if settings_of(read_config(form), config.weights) != settings]
    short = settings_from_file(config.path, config.weights)
    hidden = {setting.name for setting in short.refused} - {setting.name for setting in settings.refused}
    if not hidden and config.family != "other segmenters" and short.preprocessing != settings.preprocessing:
        wrong.append("file")
    return wrong


def fates_of(config: Public, settings: Settings) -> Counter[tuple[str, str]]:
    """Counts what becomes of the settings that tests read, by fate and place."""
    found = Counter[tuple[str, str]]()
    for leaf in leaves(config.tested):
        reason = reason_of(leaf.place, config.values)
        fate: str = fate_of(config.tested, leaf, config.weights, settings, tries=1 if reason else 8)
        if fate == "without a trace" and reason:
            fate = WITHOUT_EFFECT
        found[fate, leaf.place] += 1
    return found


def main() -> int:
    """Reads all configs; exit status 1 if a setting is lost or a config read in two ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--fetch", action="store_true", help="bring the sources there first")
    parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help="append the line of counts here")
    parser.add_argument("--list", type=int, default=0, metavar="N", help="show places of each fate, N examples each")
    args = parser.parse_args()
    if args.fetch:
        args.folder.mkdir(parents=True, exist_ok=True)
        fetch(args.folder)
    names, families, found = [], Counter[str](), Counter[tuple[str, str]]()
    seen: set[str] = set()
    known: dict[str, Counter[tuple[str, str]]] = {}  # many configs differ in their training alone
    wrong: list[str] = []
    for config in configs_in(args.folder):
        digest = json.dumps(config.values, sort_keys=True, default=str)
        if digest in seen:
            continue
        seen.add(digest)
        names.append(config.name)
        families[config.family] += 1
        settings = settings_of(read_config(config.values), config.weights)
        wrong += [f"{config.name}: {what}" for what in read_otherwise(config, settings)]
        tested = json.dumps([config.tested, config.shapes], sort_keys=True, default=str)
        if tested not in known:
            known[tested] = fates_of(config, settings)
            print(f"\r{len(names)} configs, {len(known)} tested parts", end="", file=sys.stderr, flush=True)
        found += known[tested]
        other = [leaf.place for leaf in leaves(config.values) if leaf.keys[0] not in READ_IN_TESTS]
        found += Counter((WITHOUT_EFFECT, place) for place in other)
    fates, places = Counter[str](), Counter[str]()
    for (fate, _), count in found.items():
        fates[fate] += count
        places[fate] += 1
    listing = "".join(f"{name}\n" for name in names)
    line = {
        "configs": len(names),
        "families": dict(families),
        "tested_parts": len(known),
        "settings": dict(fates),
        "places": dict(places),
        "read_in_two_ways": len(wrong),
        "configs_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "wheels_sha256": {source.name: source.sha256 for source in SOURCES if source.sha256},
        "python": platform.python_version(),
    }
    shown = Counter[str]()
    for (fate, place), count in found.most_common():
        shown[fate] += 1
        if shown[fate] <= args.list:
            print(f"{fate:<26} {count:>5} {place}")
    print(*(f"read in two ways: {name}" for name in wrong), sep="\n")
    print(json.dumps(line))
    if args.results:
        with args.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        args.results.with_suffix(".txt").write_text(listing, encoding="utf-8")
    return int(bool(wrong or fates["without a trace"]))


if __name__ == "__main__":
    sys.exit(main())
