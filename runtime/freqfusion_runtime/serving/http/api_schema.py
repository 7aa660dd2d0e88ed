# SPDX-License-Identifier: Apache-2.0
"""Parts of the OpenAPI document that FastAPI cannot derive from signatures: raw bodies, answers, errors."""

from __future__ import annotations

from typing import Any

_BINARY = {"schema": {"type": "string", "format": "binary"}}

_ERROR_BODY = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"type": "string"}},
            "additionalProperties": False,
        }
    }
}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": _ERROR_BODY}


_RETRY = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}}}

ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The request is wrong; the message says where"),
    401: _error("The API key is missing or wrong"),
    403: _error("Clients, or pages of other sites, may not do this here"),
    404: _error("There is no such model or version"),
    406: _error("None of the accepted formats can be made"),
    408: _error("The body did not arrive in time"),
    413: _error("The body or the picture is too large"),
    415: _error("The body has a type or encoding that is not understood"),
    421: _error("The name in Host is none of the server's"),
    500: _error("The model failed"),
    503: {**_error("There is no room for the request now"), "headers": _RETRY},
    504: _error("The request was not done in time"),
}

_AREA = {
    "type": "object",
    "required": ["label", "name", "color", "pixels", "share"],
    "properties": {
        "label": {"type": "integer", "minimum": 0},
        "name": {"type": "string"},
        "color": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3},
        "pixels": {"type": "integer", "minimum": 1},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "rle": {
            "type": "object",
            "description": "COCO's compressed run-length code",
            "required": ["size", "counts"],
            "properties": {
                "size": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
                "counts": {"type": "string"},
            },
        },
        "polygons": {
            "description": "Rings x0, y0, x1, y1, ... of pixel corners, outer ones clockwise, holes the other way; "
            "null where there are too many corners to be of use",
            "oneOf": [
                {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 8}},
                {"type": "null"},
            ],
        },
    },
}

SEGMENT_ANSWER: dict[str, Any] = {
    "description": "The labels, in the form that `Accept` chose",
    "headers": {
        "Server-Timing": {"description": "Milliseconds of each stage", "schema": {"type": "string"}},
        "X-Request-Id": {"description": "As sent, or made here", "schema": {"type": "string"}},
    },
    "content": {
        "image/png": _BINARY,
        "image/jpeg": _BINARY,
        "image/webp": _BINARY,
        "application/octet-stream": _BINARY,
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["model", "version", "request_id", "width", "height", "classes", "timings_ms"],
                "properties": {
                    "model": {"type": "string"},
                    "version": {"type": "string"},
                    "request_id": {"type": "string"},
                    "width": {"type": "integer", "minimum": 1},
                    "height": {"type": "integer", "minimum": 1},
                    "classes": {"type": "array", "items": _AREA},
                    "timings_ms": {"type": "object", "additionalProperties": {"type": "number"}},
                },
            }
        },
    },
}

SEGMENT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        **{f"image/{kind}": _BINARY for kind in ("jpeg", "png", "webp", "bmp", "tiff", "gif")},
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "string", "format": "binary"}},
                "additionalProperties": False,
            }
        },
    },
}
