# SPDX-License-Identifier: Apache-2.0
"""Model files: ONNX, manifests, what a plan's manifest says of the engine, and reference data."""

from __future__ import annotations

import contextlib
import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from freqfusion_runtime.errors import FreqFusionError
from fuzzing.memory import OwnMemory
from fuzzing.mutations import mutated, mutated_json


class OnnxFile(OwnMemory):
    """Everything that reads an ONNX file itself, before or without ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "net.onnx"
        self.seeds = _onnx_files(folder)

    def make(self, rng: random.Random) -> Any:
        return mutated(rng, [rng.choice(self.seeds)] if rng.random() < 0.9 else self.seeds)

    def give(self, case: Any) -> bool:
        from freqfusion_runtime.commands.inspection import inspect_onnx
        from freqfusion_runtime.model_files.external_data import model_sha256
        from freqfusion_runtime.model_files.onnx_growth import check_growth
        from freqfusion_runtime.model_files.onnx_nodes import list_nodes
        from freqfusion_runtime.model_files.onnx_probe import inner_values
        from freqfusion_runtime.sessions.fast_convolutions import with_fast_convolutions

        _write(self.path, case)
        taken = 0
        for read in (check_growth, inspect_onnx, inner_values, model_sha256):
            with contextlib.suppress(FreqFusionError):
                read(self.path)
                taken += 1
        for read in (list_nodes, with_fast_convolutions):
            with contextlib.suppress(FreqFusionError, ValueError):
                read(self.path)
                taken += 1
        return taken == 6


class OpenedOnnxFile(OwnMemory):
    """An ONNX file opened with ONNX Runtime and run on a picture, as a server does before it is ready."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "net.onnx"
        self.seeds = _onnx_files(folder)[:3]
        warnings.simplefilter("ignore")

    def make(self, rng: random.Random) -> Any:
        return mutated(rng, [rng.choice(self.seeds)])

    def give(self, case: Any) -> bool:
        from freqfusion_runtime.predictors.loading import load

        _write(self.path, case)
        picture = np.full((16, 24, 3), 128, np.uint8)
        try:
            load(self.path, threads=1).predict(picture)
        except FreqFusionError:
            return False
        return True


class ManifestText(OwnMemory):
    """A manifest's JSON, and the lines and names that are made of it."""

    def __init__(self, folder: Path) -> None:
        import small_detectors
        from small_models import image_manifest, tensor_manifest

        manifests = (tensor_manifest(), image_manifest(), small_detectors.manifest("panoptic_segmentation"))
        self.seeds = [json.loads(manifest.to_json()) for manifest in manifests]

    def make(self, rng: random.Random) -> Any:
        return mutated_json(rng, rng.choice(self.seeds))

    def give(self, case: Any) -> bool:
        from freqfusion_runtime.model_files.classes.class_table import class_colors, class_names
        from freqfusion_runtime.model_files.manifest import Manifest
        from freqfusion_runtime.model_files.setting_table import setting_lines

        try:
            manifest = Manifest.from_json(case.decode("utf-8", "surrogateescape"))
        except FreqFusionError:
            return False
        assert len(class_names(manifest)) == len(class_colors(manifest)) == manifest.num_classes
        setting_lines(manifest.settings)
        assert Manifest.from_json(manifest.to_json()) == manifest
        return True


class PlanManifestFile(OwnMemory):
    """The manifest beside a plan, with what it says of the engine."""

    def __init__(self, folder: Path) -> None:
        from small_models import tensor_manifest

        self.plan = folder / "net.plan"
        self.plan.write_bytes(b"plan")
        sides = {name: [1, 3, 64, 64] for name in ("min", "opt", "max")}
        engine = {
            "flavour": "tensorrt", "tensorrt_version": "10.14",
            "gpu": {"name": "GPU", "compute_capability": "9.0", "memory_mb": 1},
            "plugin": {"file": "x.so", "sha256": "a" * 64, "version": "1", "headers": ""}, "onnx_file": "net.onnx",
            "onnx_sha256": "b" * 64, "profiles": [{"ranges": {"image": sides}}], "options": {"tf32": False},
            "operator_paths": [{"node": "a", "operator": "Carafe", "path": "kernel"}], "build_s": 1.5,
            "verified": {"pictures": 1, "against_sha256": "c" * 64, "reference_sha256": None},
        }  # fmt: skip
        self.seed = {**json.loads(tensor_manifest().to_json()), "engine": engine, "sha256": "d" * 64}

    def make(self, rng: random.Random) -> Any:
        return mutated_json(rng, self.seed)

    def give(self, case: Any) -> bool:
        from freqfusion_runtime.building.report import path_lines, profile_lines
        from freqfusion_runtime.engines.record import read_plan_manifest

        _write(self.plan.with_suffix(".json"), case)
        try:
            told = read_plan_manifest(self.plan, trust=True)
        except FreqFusionError:
            return False
        if (engine := told.engine) is not None:
            profile_lines(engine.profiles)
            path_lines(engine.operator_paths)
            assert engine.verified is None or engine.verified.words
            assert engine.gpu is None or engine.gpu.label
            assert engine.plugin is None or engine.plugin.label
        return True


class ReferenceFile(OwnMemory):
    """Reference data: a ZIP of arrays and facts."""

    def __init__(self, folder: Path) -> None:
        from freqfusion_runtime.agreement.noise import NoiseEntry
        from freqfusion_runtime.agreement.reference_data import (
            ReferenceFacts,
            ReferenceOperator,
            ReferencePicture,
            write_reference_data,
        )
        from small_models import tensor_manifest

        self.path = folder / "reference.npz"
        array = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
        picture = ReferencePicture(
            "a.png", np.zeros((5, 7, 3), np.uint8), {"x": array}, {"n": array}, {"y": array}, np.zeros((5, 7), np.int32)
        )
        facts = ReferenceFacts(
            onnx_file="net.onnx",
            onnx_sha256="a" * 64,
            checkpoint_file="net.pth",
            checkpoint_sha256="b" * 64,
            manifest=tensor_manifest().to_json(),
            operators=(ReferenceOperator("n", "Carafe", ("x",), "y"),),
            noise_floor=(NoiseEntry("TF32", "a.png", 0.1, None, {"miou": 1.0}),),
        )
        write_reference_data(self.path, facts, b"model", [picture])
        self.seeds = [self.path.read_bytes()]

    def make(self, rng: random.Random) -> Any:
        return mutated(rng, self.seeds)

    def give(self, case: Any) -> bool:
        from freqfusion_runtime.agreement.noise import noise_lines
        from freqfusion_runtime.agreement.reference_data import ReferenceData

        _write(self.path, case)
        try:
            data = ReferenceData(self.path)
            noise_lines(data.facts.noise_floor)
            data.photo(0)
            data.picture(0)
        except FreqFusionError:
            return False
        return True


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # what reads a file by its inode must see that it is another one
    path.write_bytes(data)


def _onnx_files(folder: Path) -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper
    from small_detectors import write_detector
    from small_models import write_image_model, write_tensor_model

    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["z"], "inner")], "b", [], [])
    body = [helper.make_node("Twice", ["a"], ["c"], domain="acme"), helper.make_node("Add", ["c", "a"], ["b"])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]
    twice = helper.make_function(
        "acme", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets[:1]
    )
    thrice = helper.make_function("acme", "Thrice", ["a"], ["b"], body, opsets)
    nodes = [
        helper.make_node("ConstantOfShape", ["sides"], ["zeros"]),
        helper.make_node("Expand", ["zeros", "sides"], ["wide"]),
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("Thrice", ["z"], ["y"], domain="acme"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    sides = numpy_helper.from_array(np.array([2, 3], np.int64), "sides")
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [sides])
    other = helper.make_model(graph, opset_imports=opsets, functions=[twice, thrice], ir_version=10)
    paths = [
        write_image_model(folder / "image.onnx"),
        write_tensor_model(folder / "tensor.onnx", operator="LocalSimilarity"),
        write_detector(folder / "detector.onnx", "detection", "image"),
    ]
    return [*(path.read_bytes() for path in paths), other.SerializeToString()]
