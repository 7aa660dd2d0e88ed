# SPDX-License-Identifier: Apache-2.0
"""Why a network of the user's own could not be traced, in words: the place in its code, and what helps."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from freqfusion_runtime.model_files.free_sizes import free_sides
from torch import nn
from torch.export import ExportedProgram
from torch.fx.experimental import _config
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.own_network import NetworkForm
from freqfusion_export.networks.user_code import line_words, place_of

# What torch says in part, what that means, and what to do. Causes seen in public networks that embed FreqFusion.
_KNOWN = (
    (
        r"data-dependent|Could not extract specialized integer|\.item\(\)",
        "what it does next depends on numbers that only a run knows",
        "Take the branch out of forward, or write it with torch.where",
    ),
    (
        r"\.numpy\(\) is not supported|data pointer|doesn't have storage|FakeTensor",
        "it hands tensors to code outside of PyTorch, such as numpy or an extension of mmcv",
        "Write it with PyTorch's operators; freqfusion.FreqFusion takes the place of one that calls mmcv's CARAFE",
    ),
    (
        r"No ONNX function found for <OpOverload\(op='([^']+)'",
        "the operator {0} has no form in ONNX",
        "Write it with PyTorch's own operators; freqfusion.FreqFusion takes the place of one that calls mmcv's CARAFE",
    ),
    (
        r"unable to find a kernel|Missing key.*fake|no fake impl",
        "an operator of an extension says nothing of the sizes that it puts out",
        "Write it with PyTorch's own operators",
    ),
)


def explained(failure: Exception, network: nn.Module) -> ExportError:
    """Words what torch's exporter raised."""
    kind = type(network).__name__
    causes = list(_chain(failure))
    place = next((where for where in map(place_of, causes) if where), "")
    text = "\n".join(map(str, causes))
    for pattern, fact, remedy in _KNOWN:
        if match := re.search(pattern, text):
            return ExportError(f"{kind} cannot be traced: {fact.format(*match.groups())}{place}. {remedy}")
    first = causes[-1]
    line = next((line.strip() for line in str(first).splitlines() if line.strip()), "no more is said")
    return ExportError(
        f"{kind} cannot be traced{place}: {type(first).__name__}: {line[:300]}. "
        "Change that part of its forward, or leave fewer axes free"
    )


def check_sizes_run(network: nn.Module, form: NetworkForm) -> None:
    """Runs a network at the sizes it is traced at, to see what it fixes itself.

    Raises:
        ExportError: If it fails there; with the first axis that it fixes, and the line.
    """
    traced = form.trace_sizes
    if not traced or _failure_at(network, form, traced) is None:
        return
    given = form.given_sizes
    for name, size in traced.items():
        alike = [other for other in given if given[other] == given[name]]
        if failure := _failure_at(network, form, {**given, name: size}):
            if len(alike) > 1 and _failure_at(network, form, {**given, **dict.fromkeys(alike, size)}) is None:
                raise ExportError(
                    f"{type(network).__name__} takes {' and '.join(alike)} of one size alone{place_of(failure)}: "
                    f"{str(failure).splitlines()[0]}. Give these axes one name in dynamic"
                ) from failure
            raise ExportError(
                f"{_fixes(network, form, name)}: it takes {given[name]}, not {size}{place_of(failure)}: "
                f"{str(failure).splitlines()[0]}. {_REMEDY}"
            ) from failure
    words = ", ".join(f"{name} {size}" for name, size in traced.items())
    raise ExportError(
        f"{type(network).__name__} takes each of the sizes {words}, but not all together. Leave one out of dynamic"
    )


def check_sizes_free(
    network: nn.Module, form: NetworkForm, program: ExportedProgram, shapes: Mapping[str, Mapping[int, Any]]
) -> None:
    """Refuses a traced network that holds for a part of the sizes alone: torch tries again without them in silence.

    Args:
        network: The network.
        form: Its form.
        program: What was traced of it.
        shapes: What torch was told of the free axes, for a second try that says where.

    Raises:
        ExportError: With the axis, and the line.
    """
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    taken = [placeholders[name] for name in program.graph_signature.user_inputs]
    inputs = dict(zip((spec.name for spec in form.inputs), taken, strict=True))
    for tensor, axis, name, _ in free_sides(form.inputs):
        size = inputs[tensor].shape[axis]
        if isinstance(size, int):
            most = size
        else:
            symbol = next(iter(size.node.expr.free_symbols))
            upper = program.range_constraints[symbol].upper
            if not upper.is_number or upper > _ANY_SIZE:
                continue
            most = int(size.node.expr.subs(symbol, upper))
        raise ExportError(
            f"{_fixes(network, form, name)}: what was traced holds up to {most} alone"
            f"{_line_that_fixes(network, form, shapes, axis)}. {_REMEDY}"
        )


_ANY_SIZE = 1 << 32
_REMEDY = "Make that line compute with the size that comes, or leave the axis out of dynamic"


def _fixes(network: nn.Module, form: NetworkForm, name: str) -> str:
    tensor, axis = next((tensor, axis) for tensor, axis, found, _ in free_sides(form.inputs) if found == name)
    return f"{type(network).__name__} fixes axis {axis} of input {tensor!r}, which is to be the free size {name}"


def _failure_at(network: nn.Module, form: NetworkForm, sizes: Mapping[str, int]) -> Exception | None:
    try:
        form.call(network, form.resized(sizes))
    except Exception as e:
        return e
    return None


def _line_that_fixes(network: nn.Module, form: NetworkForm, shapes: Mapping[str, Mapping[int, Any]], axis: int) -> str:
    """Traces once more, as torch's exporter began: what it then knows of sizes tells of the lines that asked."""
    examples = form.trace_examples(1)
    with warnings.catch_warnings(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                network,
                () if form.by_keyword else tuple(examples.values()),
                dict(examples) if form.by_keyword else None,
                dynamic_shapes=dict(shapes) if form.by_keyword else tuple(shapes.values()),
                strict=False,
            )
            environments = [size.node.shape_env for node in program.graph.nodes for size in _symbolic_sizes(node)]
        except Exception as e:
            environments = [env for cause in _chain(e) for env in _environments_of(cause)]
    for env in environments[:1]:
        # An axis has the symbol that it was given when tracing began.
        own = {s for s, sources in env.var_to_sources.items() if axis in {getattr(x, "idx", None) for x in sources}}
        for guard in env.guards:
            where = guard.sloc.framework_loc
            if not own & guard.expr.free_symbols or not isinstance(where, traceback.FrameSummary):
                continue
            if words := line_words(where.filename, where.lineno or 0):
                return words
    return ""


def _symbolic_sizes(node: torch.fx.Node) -> list[Any]:
    value = node.meta.get("val")
    return [size for size in value.shape if isinstance(size, torch.SymInt)] if isinstance(value, torch.Tensor) else []


def _environments_of(error: BaseException) -> Iterator[ShapeEnv]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield from [value for value in list(frame.f_locals.values()) if isinstance(value, ShapeEnv)]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
