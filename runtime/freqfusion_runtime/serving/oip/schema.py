# SPDX-License-Identifier: Apache-2.0
"""The protocol's JSON answers as models for the OpenAPI document, and the bodies of ``infer``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from freqfusion_runtime.serving.scheduling.tensors import DTYPES


class _Strict(BaseModel):
    # Field names of the protocol begin with model_, which pydantic would warn of.
    model_config = ConfigDict(protected_namespaces=(), extra="forbid")


class Live(_Strict):
    """Answer of the liveness route."""

    live: bool


class Ready(_Strict):
    """Answer of the readiness route; ``problems`` by ``name:version``."""

    ready: bool
    live: bool
    draining: bool
    problems: dict[str, str]


class ServerMetadata(_Strict):
    """Answer of ``/v2``."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(_Strict):
    """Answer of a model's readiness route."""

    name: str
    version: str
    ready: bool
    problem: str


class TensorMetadata(_Strict):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_Strict):
    """Answer of a model's metadata route."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfiguredTensor(_Strict):
    """An input or output in Triton's words."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfiguration(_Strict):
    """Answer of a model's configuration route."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]
    dynamic_batching: dict[str, Any]


class Total(_Strict):
    """How often, and nanoseconds in all."""

    count: int
    ns: int


class InferenceStatistics(_Strict):
    """Totals of requests by stage."""

    success: Total
    fail: Total
    queue: Total
    compute_input: Total
    compute_infer: Total
    compute_output: Total
    cache_hit: Total
    cache_miss: Total


class BatchStatistics(_Strict):
    """Totals of runs with one batch size."""

    batch_size: int
    compute_input: Total
    compute_infer: Total
    compute_output: Total


class OneModelStatistics(_Strict):
    """Totals of a model."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class ModelStatistics(_Strict):
    """Answer of the statistics routes."""

    model_stats: list[OneModelStatistics]


class IndexEntry(_Strict):
    """A model in the repository's index."""

    name: str
    version: str
    state: str
    reason: str


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 8}
_ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string"},
                    "datatype": {"type": "string", "enum": list(DTYPES)},
                    "shape": _SHAPE,
                    "data": {"type": "array"},
                    "parameters": {"type": "object"},
                },
            },
        },
    },
}

INFER_ANSWER: dict[str, Any] = {
    "description": "The outputs: JSON, or JSON followed by bytes",
    "headers": {
        "Inference-Header-Content-Length": {
            "description": "Length of the JSON part where bytes follow",
            "schema": {"type": "integer", "minimum": 1},
        },
        "Server-Timing": {"description": "Milliseconds of each stage", "schema": {"type": "string"}},
    },
    "content": {"application/json": {"schema": _ANSWER}, "application/octet-stream": _BINARY},
}

_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "maxLength": 256},
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data_output": {"type": "boolean"},
                "timeout": {"type": "integer", "minimum": 0, "description": "Microseconds"},
            },
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string", "maxLength": 256},
                    "datatype": {"type": "string", "enum": list(DTYPES)},
                    "shape": _SHAPE,
                    "data": {"type": "array", "items": {"type": ["number", "boolean", "array"]}},
                    "parameters": {
                        "type": "object",
                        "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
                    },
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "maxLength": 256},
                    "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                },
            },
        },
    },
}

INFER_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": _REQUEST},
        "application/octet-stream": _BINARY,
        **{f"image/{kind}": _BINARY for kind in ("jpeg", "png", "webp")},
    },
}

INFER_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": "Length of the JSON part where bytes follow it; 0 where the body is the input's bytes",
        "schema": {"type": "integer", "minimum": 0},
    },
    {
        "name": "X-Tensor-Shape",
        "in": "header",
        "required": False,
        "description": "Shape of a raw binary input whose length does not tell it",
        "schema": {"type": "string", "pattern": "^[0-9]{1,10}(,[0-9]{1,10}){0,7}$"},
    },
    {
        "name": "X-Deadline-Ms",
        "in": "header",
        "required": False,
        "description": "Time the request may take",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
]
