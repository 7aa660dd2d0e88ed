# SPDX-License-Identifier: Apache-2.0
"""Networks of the user's own, described by example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from freqfusion_runtime.model_files.free_sizes import BATCH, free_sides, name_and_divisor
from freqfusion_runtime.model_files.manifest import FreeSize, Preprocessing, TensorSpec
from torch import Tensor, nn

from freqfusion_export.errors import ExportError
from freqfusion_export.networks.dynamic_axes import DynamicAxes, shapes_with_names
from freqfusion_export.networks.protocol import Form
from freqfusion_export.networks.user_code import check_module, place_of, words_of

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Dynamic = Mapping[str, Mapping[int, str]]
DTYPES = {
    torch.float32: "float32",
    torch.bool: "bool",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
}


@dataclass(frozen=True, kw_only=True)
class NetworkForm(Form):
    """A network of which nobody says what its tensors mean.

    Attributes:
        given: The example inputs, by name.
        by_keyword: Whether they are handed to ``forward`` under these names, else in this order.
        multiples: Every free size, with what it is a multiple of, by its name.
    """

    comparison = "tensors"

    given: Mapping[str, Tensor] = field(compare=False)
    by_keyword: bool
    multiples: Mapping[str, int]

    def trace_examples(self, size_divisor: int) -> dict[str, Tensor]:
        """See ``Form``: near the given sizes, never below them."""
        return self.resized(self.trace_sizes)

    def free_sizes(self, size_divisor: int) -> dict[str, int]:
        """See ``Form``."""
        return {name: self.multiples[name] for name in self.given_sizes}

    @property
    def shared_sizes(self) -> dict[str, FreeSize]:
        """See ``Form``."""
        return {name: FreeSize(self.multiples[name], size) for name, size in self.given_sizes.items()}

    @property
    def given_sizes(self) -> dict[str, int]:
        """The free sizes as they are in the example inputs."""
        sides = free_sides(self.inputs)
        return {name: self.given[tensor].shape[axis] * divisor for tensor, axis, name, divisor in sides}

    @property
    def trace_sizes(self) -> dict[str, int]:
        """The free sizes to trace at."""
        return self._unlike(self.given_sizes)

    def checked_sizes(self) -> Iterator[dict[str, int]]:
        """Yields sizes to compare a file at: those given, about half of them, and larger ones.

        A network may refuse the halves, never the others; batches are of 1 and 3.
        """
        given = self.given_sizes
        yield given
        if given:
            halves = {
                name: max(1, size // 2 // self.multiples[name]) * self.multiples[name] for name, size in given.items()
            }
            yield {**halves, **({BATCH: 3} if BATCH in given else {})}
            larger = self._unlike(self.trace_sizes)
            yield {**larger, **({BATCH: 1} if BATCH in given else {})}

    def _unlike(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The next larger sizes, each another and none what a network could take for a fixed 1."""
        found: dict[str, int] = {}
        for name, size in sizes.items():
            step = self.multiples[name]
            size = max(size + step * (size == self.given_sizes[name] or size in found.values()), 2 * step)
            while size in found.values():
                size += step
            found[name] = size
        return found

    def resized(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Makes inputs of other sizes from the given ones: repeated or cut, numbers a little changed."""
        generator = torch.Generator().manual_seed(0)
        made = {}
        for spec in self.inputs:
            tensor = self.given[spec.name]
            shape = list(tensor.shape)
            for axis, side in enumerate(spec.shape):
                if isinstance(side, str):
                    name, divisor = name_and_divisor(side)
                    shape[axis] = sizes[name] // divisor
                    tensor = tensor.index_select(axis, torch.arange(shape[axis]) % tensor.shape[axis])
            if tensor.is_floating_point() and shape != list(self.given[spec.name].shape):
                spread = float(self.given[spec.name].std(correction=0)) or 1.0
                tensor = tensor + 0.1 * spread * torch.randn(shape, generator=generator)
            made[spec.name] = tensor
        return made

    def call(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the network; its outputs by name."""
        with torch.inference_mode():
            found = network(**tensors) if self.by_keyword else network(*tensors.values())
        leaves = torch.utils._pytree.tree_leaves(found)
        return {spec.name: leaf for spec, leaf in zip(self.outputs, leaves, strict=True)}

    def image_interface(self) -> ir.passes.PassBase:
        """See ``Form``."""
        raise ExportError(
            "the image interface makes label maps, and nobody says that this network scores classes. Export it with "
            "task='semantic_segmentation', its classes and its preprocessing, or with the tensor interface"
        )


def describe_network(
    network: nn.Module,
    inputs: Inputs,
    outputs: Sequence[str] | None = None,
    dynamic: Dynamic | None = None,
    preprocessing: Preprocessing | None = None,
) -> NetworkForm:
    """Finds out what goes in and comes out by running a network once.

    Args:
        network: In evaluation mode, on the CPU.
        inputs: Example inputs by name, of usual sizes. Where all names are parameters of ``forward``, they are handed
            to it under these names, else in this order. Without names they are called as its parameters are.
        outputs: Names of the outputs, in order; by default the keys of a dictionary, else ``output``, ``output_1``...
        dynamic: The free axes of each input: the axis's number, and a name with what the size is a multiple of, as in
            ``{"images": {0: "batch", 2: "height: 32", 3: "width: 32"}}``. Axes of one name are of one size, and
            ``height/2`` is half of it. All other axes keep the size they have.
        preprocessing: Of pictures, for the manifest alone.

    Raises:
        ExportError: If the network does not take these inputs, puts out anything but tensors, or an axis is not there.
    """
    check_module(network)
    given, by_keyword = _named_inputs(network, inputs)
    axes = DynamicAxes.read(dynamic or {}, given)
    try:
        with torch.inference_mode():
            found = network(**given) if by_keyword else network(*given.values())
    except Exception as e:
        shapes = ", ".join(f"{name} {words_of(tensor)}" for name, tensor in given.items())
        raise ExportError(
            f"{type(network).__name__} itself fails on the example inputs {shapes}{place_of(e)}: {_first_line(e)} "
            "Give inputs of a size and type that it takes"
        ) from e
    named = _named_outputs(network, found, outputs)
    return NetworkForm(
        task="network",
        num_classes=1,
        num_things=None,
        classes=(),
        palette=(),
        preprocessing=preprocessing or Preprocessing(size_divisor=1),
        outputs=tuple(TensorSpec(name, DTYPES[tensor.dtype], ()) for name, tensor in named.items()),
        inputs=tuple(
            TensorSpec(name, DTYPES[given[name].dtype], shape) for name, shape in shapes_with_names(given, axes).items()
        ),
        is_own=True,
        given=given,
        by_keyword=by_keyword,
        multiples=axes.multiples,
    )


def takes_by_keyword(network: nn.Module, names: Iterable[str]) -> bool:
    """Whether inputs of these names are handed to ``forward`` under them: if all are names of its parameters."""
    parameters = inspect.signature(network.forward).parameters.items()
    return set(names) <= {name for name, parameter in parameters if parameter.kind not in _UNNAMED}


def _named_inputs(network: nn.Module, inputs: Inputs) -> tuple[dict[str, Tensor], bool]:
    signature = inspect.signature(network.forward)
    if isinstance(inputs, Mapping):
        given = dict(inputs)
    else:
        tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [name for name, parameter in signature.parameters.items() if parameter.kind in kinds]
        names += [f"input_{place}" for place in range(len(names), len(tensors))]
        given = dict(zip(names, tensors, strict=False))
    kind = type(network).__name__
    if not given:
        raise ExportError(f"there are no example inputs; give {kind} one for each parameter of its forward{signature}")
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise ExportError(f"input {name!r} must be a tensor, got {type(tensor).__name__}; give an example of it")
        if tensor.dtype not in DTYPES:
            raise ExportError(
                f"input {name!r} is {words_of(tensor)}, and inputs are {', '.join(DTYPES.values())}; convert it, and "
                "choose half types by precision="
            )
        if tensor.device.type != "cpu":
            raise ExportError(f"input {name!r} is on {tensor.device}, and files are written from the CPU; call .cpu()")
        if 0 in tensor.shape:
            raise ExportError(f"input {name!r} is empty, {words_of(tensor)}; give an example of a usual size")
    by_keyword = takes_by_keyword(network, given)
    try:
        signature.bind(**given) if by_keyword else signature.bind(*given.values())
    except TypeError as e:
        raise ExportError(
            f"{kind}.forward{signature} does not take the {len(given)} inputs {', '.join(given)}: {e}; "
            "give one tensor for each parameter"
        ) from e
    return given, by_keyword


_UNNAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _named_outputs(network: nn.Module, found: Any, names: Sequence[str] | None) -> dict[str, Tensor]:
    kind = type(network).__name__
    leaves = torch.utils._pytree.tree_leaves(found)
    if names is None:
        keyed = isinstance(found, Mapping) and len(found) == len(leaves)
        names = list(map(str, found)) if keyed else [f"output_{n}" if n else "output" for n in range(len(leaves))]
    if len(names) != len(leaves) or not leaves:
        raise ExportError(
            f"{kind} puts out {len(leaves)} tensors, and {len(names)} names are given: {', '.join(names)}; name each"
        )
    if len(set(names)) != len(names):
        raise ExportError(f"the outputs' names {', '.join(names)} are not all different; name each as no other is")
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, Tensor):
            raise ExportError(
                f"output {name!r} of {kind} is no tensor but {type(leaf).__name__} ({str(leaf)[:40]}); leave it out of "
                "what forward returns in evaluation mode, or make a tensor of it there"
            )
        if leaf.dtype not in DTYPES:
            raise ExportError(
                f"output {name!r} of {kind} is {words_of(leaf)}, and outputs are {', '.join(DTYPES.values())}; "
                "convert it in forward"
            )
    return dict(zip(names, leaves, strict=True))


def _first_line(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].strip()
    return text if text.endswith((".", "!", "?")) else text + "."
