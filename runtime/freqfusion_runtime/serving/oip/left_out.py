# SPDX-License-Identifier: Apache-2.0
"""The parts of the protocol that this server leaves out, refused in the same words over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freqfusion_runtime.serving.operation.errors import NotAllowedError, NotSupportedError, ServingError

_SHARED_MEMORY = (
    "shared memory is not offered here: the server may be on another machine than its clients. "
    "Send the data in the request."
)
_TRACE = "traces are not offered here. Server-Timing in each answer, the log and /metrics tell where the time goes."
_LOG = "the log is set up when the server starts (--log-file), not by clients. Read it there, or /metrics."

# Routes below /v2.
HTTP_ROUTES: Mapping[str, str] = {
    "/systemsharedmemory/{rest:path}": _SHARED_MEMORY,
    "/cudasharedmemory/{rest:path}": _SHARED_MEMORY,
    "/models/{model_name}/trace/setting": _TRACE,
    "/models/{model_name}/versions/{version}/trace/setting": _TRACE,
    "/trace/setting": _TRACE,
    "/logging": _LOG,
}
_GRPC_METHODS: Mapping[str, str] = {
    **{
        f"{kind}SharedMemory{action}": _SHARED_MEMORY
        for kind in ("System", "Cuda")
        for action in ("Status", "Register", "Unregister")
    },
    "TraceSetting": _TRACE,
    "LogSettings": _LOG,
}
_LOADING = {"RepositoryModelLoad": "load", "RepositoryModelUnload": "unload"}


def grpc_refusal(method: str, request: Any) -> ServingError:
    """Words the refusal of a gRPC call that is left out; its status is UNIMPLEMENTED, as clients expect."""
    if method in _LOADING:
        return NotSupportedError(str(loading(_LOADING[method], request.model_name)))
    return NotSupportedError(_GRPC_METHODS[method])


def loading(action: str, model: str) -> NotAllowedError:
    """Words that clients load and unload nothing."""
    return NotAllowedError(
        f"models cannot be loaded or unloaded by clients, asked to {action[:20]} {model[:40]!r}. "
        "Replace the model's file, which is noticed, or start the server with other models."
    )


def classification(output: str) -> NotSupportedError:
    """Words that the best classes of an output are not picked here."""
    return NotSupportedError(f"{output}: classification is not offered here. Ask for the whole output, or /v1/segment.")


def shared_memory(tensor: str) -> NotSupportedError:
    """Words that a tensor of a request is not taken from, or put into, shared memory."""
    return NotSupportedError(f"{tensor}: {_SHARED_MEMORY}")
