# SPDX-License-Identifier: Apache-2.0
"""Modules of the user's own: what keeps one from being written, and where in its code something happened."""

from __future__ import annotations

import linecache
import os
import sysconfig
import traceback
from pathlib import Path

import freqfusion
import onnx_ir
import onnxscript
import torch
from torch import Tensor, nn

from freqfusion_export.errors import ExportError

_OURS = str(Path(__file__).parents[1]) + os.sep
_OTHERS = tuple(str(Path(str(m.__file__)).parent) + os.sep for m in (torch, freqfusion, onnxscript, onnx_ir))
_STANDARD_LIBRARY, _INSTALLED = (sysconfig.get_paths()[place] + os.sep for place in ("stdlib", "purelib"))


def check_module(network: nn.Module) -> None:
    """Raises ``ExportError`` for a module in a state in which none can be written."""
    kind = type(network).__name__
    if network.training:
        raise ExportError("the model is in training mode; call model.eval() first")
    for name, module in network.named_modules():
        where = f"{kind}.{name}" if name else kind
        if isinstance(module, torch.jit.ScriptModule):
            raise ExportError(
                f"{where} is a torch.jit module, whose code cannot be traced; build it from its Python class and load "
                "its state_dict instead"
            )
        if module.training:
            raise ExportError(f"{where} is in training mode; call model.eval() first")
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            raise ExportError(
                f"{where} has a forward hook ({getattr(hook, '__qualname__', type(hook).__name__)}), which would "
                "become part of the file; remove it (handle.remove(), torch.nn.utils.remove_weight_norm or the like)"
            )
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.device.type != "cpu":
            raise ExportError(
                f"{kind}.{name} is on {tensor.device}, and files are written from the CPU; call model.cpu()"
            )


def place_of(error: BaseException) -> str:
    """The innermost line of the user's code that an error came through, as `` in net.py:31 (`y + self.pos`)``.

    Empty where there is none, such as in networks made of PyTorch's own modules.
    """
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        # What called our exporter is the user's, too, and no part of the network.
        found = "" if file.startswith(_OURS) else line_words(file, line) or found
    return found


def line_words(file: str, line: int) -> str:
    """A line of the user's own code, as :func:`place_of` writes it; empty for those of others."""
    is_standard = file.startswith(_STANDARD_LIBRARY) and not file.startswith(_INSTALLED)
    if is_standard or file.startswith(("<", _OURS, *_OTHERS)):
        return ""
    code = linecache.getline(file, line).strip()
    return f" in {Path(file).name}:{line}" + (f" (`{code[:80]}`)" if code else "")


def words_of(tensor: Tensor) -> str:
    """A tensor's type and shape, as ``float32 1x3x512x512``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape)) or '()'}"
