# SPDX-License-Identifier: Apache-2.0
"""Build a TensorRT or TensorRT-RTX engine from an exported file, or take the one that was built before.

Writes a pure plan, which trtexec and Triton load, and its manifest NAME.json. TensorRT needs a GPU and turns FreqFusion
nodes into plugins; a node that fell to its function body is an error unless --allow-function-bodies is given.
TensorRT-RTX builds without a GPU and has no plugins, so there every FreqFusion node runs as its function body.

Sizes are batch x height x width of the picture, as in `--min 1x256x256 --opt 1x512x512 --max 4x1024x2048`; give the
three several times for several profiles, and `1x512x512,NAME=1x4` where the model has other inputs. With --verify the
engine must compute what the ONNX file computes, and what PyTorch computed where reference data (`freqfusion parity
--save-reference`) is among its arguments, from single operators to label maps; or it is not kept, and exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from freqfusion_runtime.commands.arguments import positive
from freqfusion_runtime.commands.build_gate import gate_json, open_gate, print_gate
from freqfusion_runtime.commands.json_output import add_json_argument, printer, write_json

if TYPE_CHECKING:
    from freqfusion_runtime.building.builder import BuiltEngine, EngineBuilder
    from freqfusion_runtime.building.gate import Gate
    from freqfusion_runtime.engines.options import BuildOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="a file written by `freqfusion export`")
    parser.add_argument("--output", type=Path, metavar="FILE.plan", help="MODEL.<flavour>.plan if not given")
    parser.add_argument(
        "--flavour",
        choices=("auto", "tensorrt", "tensorrt-rtx"),
        default="auto",
        help="auto: TensorRT where it is installed, else TensorRT-RTX",
    )
    sizes = parser.add_argument_group("profiles", "1x64x64, 1x512x512 and 1x1024x2048 if none is given")
    sizes.add_argument("--min", action="append", default=[], metavar="SIZE", help="smallest size of a profile")
    sizes.add_argument("--opt", action="append", default=[], metavar="SIZE", help="size it is fastest at")
    sizes.add_argument("--max", action="append", default=[], metavar="SIZE", help="largest size")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--workspace", type=positive, metavar="MIB", help="memory for layers; the whole device's")
    engine.add_argument("--optimization-level", type=int, choices=range(6), metavar="0-5", help="TensorRT's default: 3")
    engine.add_argument("--tf32", action="store_true", help="let fp32 convolutions round their inputs to TF32")
    engine.add_argument("--version-compatible", action="store_true", help="later TensorRT versions can run it")
    engine.add_argument("--hardware-compatible", action="store_true", help="any GPU since Ampere can run it")
    engine.add_argument("--serialize-plugins", action="store_true", help="put the plugin library into the plan")
    engine.add_argument("--refittable", action="store_true", help="weights can be replaced later")
    engine.add_argument("--strip-weights", action="store_true", help="leave the weights out; the ONNX file has them")
    engine.add_argument("--plugin", type=Path, metavar="FILE.so", help="plugin library; the installed one if not given")
    engine.add_argument("--allow-function-bodies", action="store_true", help="FreqFusion nodes need not be plugins")
    parser.add_argument("--no-cache", action="store_true", help="build even if the same engine was built before")
    parser.add_argument("--dry-run", action="store_true", help="parse the model and print what would be built")
    parser.add_argument(
        "--verify",
        type=Path,
        nargs="+",
        metavar="PHOTO",
        help="for the gate: pictures, folders of them, and a file of reference data (.npz)",
    )
    parser.add_argument(
        "--against", type=Path, metavar="FILE.onnx", help="for the gate: another file than the model, such as its fp32"
    )
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="for the gate: PyTorch's label maps, as STEM.labels.png"
    )
    add_json_argument(parser)


def execute(args: argparse.Namespace) -> int:
    """Runs the command."""
    from freqfusion_runtime.building.builder import EngineBuilder
    from freqfusion_runtime.engines.errors import BuildInterruptedError
    from freqfusion_runtime.engines.flavours import open_flavour
    from freqfusion_runtime.engines.profiles import read_profiles
    from freqfusion_runtime.model_files.onnx_facts import read_onnx_facts

    say = printer(args.json)
    start = time.perf_counter()
    facts = read_onnx_facts(args.model)
    profiles = read_profiles(facts.manifest(str(args.model)), args.min, args.opt, args.max)
    gate = open_gate(args, facts.manifest(str(args.model)))
    flavour = open_flavour(args.flavour)
    builder = EngineBuilder(flavour, args.model, facts, profiles, _options(args), args.plugin)
    output = args.output or args.model.with_suffix(f".{flavour.name}.plan")
    if gate is not None:
        gate.check_sizes(output, builder.profiles)
    try:
        return _dry_run(builder, args, say) if args.dry_run else _run(builder, output, gate, args, say, start)
    except BuildInterruptedError as e:
        print(f"freqfusion build: {e}", file=sys.stderr)
        return 130


def _run(
    builder: EngineBuilder,
    output: Path,
    gate: Gate | None,
    args: argparse.Namespace,
    say: Callable[[str], None],
    start: float,
) -> int:
    from dataclasses import replace

    from freqfusion_runtime.building.publication import delete_same, publish
    from freqfusion_runtime.building.report import (
        build_facts,
        build_lines,
        memory_lines,
        path_lines,
        profile_lines,
    )
    from freqfusion_runtime.commands.build_bar import build_bar
    from freqfusion_runtime.engines.cache import EngineCache
    from freqfusion_runtime.engines.record import EngineRecord
    from freqfusion_runtime.files import make_folder, scratch_folder, sha256_of

    make_folder(output.parent)
    cache, key = EngineCache(), builder.key()
    cached, reason = (None, "--no-cache") if args.no_cache else cache.find(key)
    say(f"{builder.flavour.label}, cache {'hit' if cached else 'miss'}: {reason}")
    with scratch_folder("build") as folder:
        staged = folder / output.name
        built: BuiltEngine | None = None
        if cached is not None:
            with cached:
                cached.copy_to(staged)
            record = EngineRecord.from_json(cached.record, cached.plan)
        else:
            with build_bar(output.name) as report:
                built = builder.build(output, report)
            staged.write_bytes(built.plan)
            record = built.record
        sha256 = sha256_of(staged)
        if gate is not None:
            from freqfusion_runtime.building.verification import verify

            verify(builder, staged, record, gate, lambda subject: build_bar(f"gate: {subject}"))
        results = gate.results if gate is not None else []
        agrees = all(result.agrees for result in results)
        other_stays, evicted = False, list[Path]()
        if agrees:
            if gate is not None:
                record = replace(record, verified=gate.verification)
            publish(staged, output, builder.manifest, record)
            if built is not None or gate is not None:
                evicted = cache.store(key, output, record.as_json())
        else:
            cache.remove(key)
            other_stays = delete_same(output, sha256)
        size_mb = staged.stat().st_size / 1e6
    say(f"{output}: {size_mb:.1f} MB, {builder.manifest.model} {builder.manifest.precision}, sha256 {sha256[:12]}...")
    for line in (
        *profile_lines(record.profiles),
        *path_lines(record.operator_paths),
        *((*build_lines(built), *memory_lines(built, builder.gpu)) if built else ()),
    ):
        say(line)
    if gate is not None:
        print_gate(gate, agrees, output, other_stays, say)
    if evicted:
        limit_mb = cache.limit_bytes / 1e6
        say(f"  cache: {len(evicted)} engines, the least recently used, made room; limit {limit_mb:.0f} MB")
    seconds = time.perf_counter() - start
    say(f"  {seconds:.1f} s in all")
    write_json(
        args.json,
        {
            "path": str(output) if agrees else None,
            "sha256": sha256,
            "size_mb": size_mb,
            "total_s": round(seconds, 3),
            "cache": {
                "hit": cached is not None,
                "reason": reason,
                "key": key.digest,
                "parts": dict(key.parts),
                "evicted": [path.stem for path in evicted],
            },
            "engine": record.as_json(),
            **({"build": build_facts(built)} if built else {}),
            **({"gate": gate_json(gate, agrees, other_stays)} if gate is not None else {}),
            "versions": {builder.flavour.name: builder.flavour.version},
        },
    )
    return 0 if agrees else 1


def _dry_run(builder: EngineBuilder, args: argparse.Namespace, say: Callable[[str], None]) -> int:
    from dataclasses import asdict

    from freqfusion_runtime.building.report import path_lines, profile_lines
    from freqfusion_runtime.engines.cache import EngineCache

    parsed = builder.parse()
    key = builder.key()
    cached, reason = EngineCache().find(key)
    if cached:
        cached.close()
    manifest = builder.manifest
    say(f"{args.model}: {manifest.model} {manifest.precision}, {manifest.interface} interface")
    say(f"  {builder.flavour.label} parsed it in {parsed.parse_s:.1f} s: {parsed.network.num_layers} layers")
    tensors = [
        *(("input", parsed.network.get_input(i)) for i in range(parsed.network.num_inputs)),
        *(("output", parsed.network.get_output(i)) for i in range(parsed.network.num_outputs)),
    ]
    for kind, tensor in tensors:
        say(f"  {kind} {tensor.name}: {tensor.dtype.name} {tuple(tensor.shape)}")
    for line in (*profile_lines(builder.profiles), *path_lines(parsed.operator_paths)):
        say(line)
    say(f"  options: {', '.join(f'{name}={value}' for name, value in asdict(builder.options).items())}")
    say(f"  cache {'hit' if cached else 'miss'}: {reason}; nothing was built")
    write_json(
        args.json,
        {
            "model": str(args.model),
            "layers": parsed.network.num_layers,
            "parse_s": round(parsed.parse_s, 3),
            "tensors": [
                {"kind": kind, "name": t.name, "dtype": t.dtype.name, "shape": list(t.shape)} for kind, t in tensors
            ],
            "profiles": [asdict(profile) for profile in builder.profiles],
            "operator_paths": [asdict(entry) for entry in parsed.operator_paths],
            "options": asdict(builder.options),
            "cache": {"hit": cached is not None, "reason": reason, "key": key.digest, "parts": dict(key.parts)},
            "versions": {builder.flavour.name: builder.flavour.version},
        },
    )
    return 0


def _options(args: argparse.Namespace) -> BuildOptions:
    from freqfusion_runtime.engines.options import BuildOptions

    return BuildOptions(
        workspace_mb=args.workspace,
        optimization_level=args.optimization_level,
        tf32=args.tf32,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        serialize_plugins=args.serialize_plugins,
        refittable=args.refittable,
        strip_weights=args.strip_weights,
        allow_function_bodies=args.allow_function_bodies,
    )
