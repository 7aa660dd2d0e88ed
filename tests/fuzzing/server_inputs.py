# SPDX-License-Identifier: Apache-2.0
"""Requests to a server on loopback: JSON, binary tensors and pictures over HTTP, and messages of gRPC as bytes."""

from __future__ import annotations

import http.client
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing.mutations import TEXTS, mutated, mutated_json
from PIL import Image

LIMITS = ("--max-body-mb", "2", "--max-image-pixels", "200000", "--body-timeout-s", "2", "--deadline-ms", "5000")
# Refusals that are documented; 503 and 504 are those of a busy server.
_REFUSED = (400, 404, 405, 408, 411, 413, 414, 415, 422, 431, 503, 504)


class _Served:
    """A server of two small models, and one connection to it at a time."""

    def __init__(self, folder: Path) -> None:
        from server_process import ServerProcess
        from small_models import write_image_model, write_tensor_model

        models = [write_image_model(folder / "colors.onnx"), write_tensor_model(folder / "means.onnx")]
        self.server = ServerProcess(models, *LIMITS, folder=folder)
        self.connection: http.client.HTTPConnection | None = None

    def resident_mb(self) -> float:
        return self.server.resident_mb()

    def close(self) -> None:
        assert self.server.terminate() == 0

    def ask(self, path: str, body: bytes, headers: dict[str, str]) -> bool:
        """Sends a request; True if it was answered, False if it was refused with a reason."""
        for _ in range(2):  # a refusal may close a connection that is kept
            connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
            fresh, self.connection = self.connection is None, connection
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
            except (http.client.HTTPException, ConnectionError, BrokenPipeError):
                self._forget()
                if fresh:
                    return self._still_answers()
                continue
            except ValueError:  # http.client itself refuses line breaks in headers
                self._forget()
                return False
            if answer.will_close:
                self._forget()
            if answer.status == 200:
                return True
            assert answer.status in _REFUSED, f"status {answer.status}: {content[:300]!r}"
            assert json.loads(content)["error"]
            return False
        raise AssertionError("unreachable")

    def _still_answers(self) -> bool:
        """A server may hang up on what is no request; not on the next one."""
        status, _, content = self.server.ask("GET", "/v2/health/live")
        assert status == 200, content
        return False

    def _forget(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def _tensor(data: Any, **more: Any) -> dict[str, Any]:
    return {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, 2, 2, 3],
        **more,
        **({} if data is None else {"data": data}),
    }


JSON_REQUESTS: list[Any] = [
    {"id": "a", "inputs": [_tensor(list(range(12)))]},
    {"inputs": [_tensor([[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 1, 1]]]])], "outputs": [{"name": "labels"}]},
    {"inputs": [_tensor([0] * 12)], "parameters": {"timeout": 1000000, "binary_data_output": True}},
    {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}]},
]


class HttpJson(_Served):
    """JSON requests of the Open Inference Protocol."""

    def make(self, rng: random.Random) -> Any:
        path = rng.choice(
            ("/v2/models/colors/infer", "/v2/models/colors/infer", "/v2/models/means/infer", "/v2/repository/index")
        )
        return path, mutated_json(rng, rng.choice(JSON_REQUESTS))

    def give(self, case: Any) -> bool:
        path, body = case
        return self.ask(path, body, {"Content-Type": "application/json"})


class HttpBinary(_Served):
    """Requests with tensors as bytes: behind JSON, or alone with their shape in a header."""

    def make(self, rng: random.Random) -> Any:
        data = rng.randbytes(rng.choice((12, 12, 12, 0, 11, 24, 300)))
        if rng.random() < 0.3:
            shape = rng.choice(
                ("1,2,2,3", "100,1,1,3", "1,1,4,3", "-1,2,2,3", "9" * 30, "", "1,2,2,3,1", "0,2,2,3", "\u0661")
            )
            length = rng.choice(("0", "0", "0", "12", "-1"))
            return data, {"Inference-Header-Content-Length": length, "X-Tensor-Shape": shape}
        seed = {"inputs": [_tensor(None, parameters={"binary_data_size": 12})]}
        head = mutated_json(rng, seed) if rng.random() < 0.8 else json.dumps(seed).encode()
        length = rng.choice((str(len(head)),) * 4 + (str(len(head) + rng.randint(-20, 20)), "1e3", "", "9" * 12))
        return head + data, {"Inference-Header-Content-Length": length}

    def give(self, case: Any) -> bool:
        body, headers = case
        sent = {name: value.encode("utf-8") for name, value in headers.items()}
        return self.ask("/v2/models/colors/infer", body, {**sent, "Content-Type": "application/octet-stream"})


class HttpImage(_Served):
    """Encoded pictures, as bodies and as parts of forms."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pictures = _pictures()

    def make(self, rng: random.Random) -> Any:
        kind, seed = rng.choice(list(self.pictures.items()))
        data = mutated(rng, [seed]) if rng.random() < 0.8 else mutated(rng, list(self.pictures.values()))
        if rng.random() < 0.7:
            return data, f"image/{kind}"
        form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + data + b"\r\n--x--\r\n"
        return (mutated(rng, [form]) if rng.random() < 0.7 else form), "multipart/form-data; boundary=x"

    def give(self, case: Any) -> bool:
        data, kind = case
        return self.ask("/v1/segment", data, {"Content-Type": kind})


class Grpc(_Served):
    """Messages of ``ModelInfer``, changed in their fields and as bytes, after which many are no protobuf any more."""

    def __init__(self, folder: Path) -> None:
        import grpc

        super().__init__(folder)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}")
        self.call = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")  # bytes in, bytes out
        self.seeds = _messages()
        self.errors = grpc.RpcError

    def make(self, rng: random.Random) -> Any:
        seed = rng.choice(self.seeds)
        if rng.random() < 0.6:
            seed = _changed_message(rng, seed)
        return mutated(rng, [seed]) if rng.random() < 0.4 else seed

    def give(self, case: Any) -> bool:
        try:
            self.call(case, timeout=20)
        except self.errors as e:
            code, details = e.code().name, e.details() or ""
            refused = (
                "INVALID_ARGUMENT",
                "NOT_FOUND",
                "UNIMPLEMENTED",
                "RESOURCE_EXHAUSTED",
                "UNAVAILABLE",
                "DEADLINE_EXCEEDED",
            )
            # gRPC's own words for what is no message, where it reads them.
            is_no_message = "DecodeError" in details or "deserializing" in details
            assert code in refused or is_no_message, f"{code}: {details}"
            return False
        return True

    def close(self) -> None:
        self.channel.close()
        super().close()


def _pictures() -> dict[str, bytes]:
    levels = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
    found = {}
    for kind in ("png", "jpeg", "webp", "bmp", "gif", "tiff"):
        stream = io.BytesIO()
        Image.fromarray(levels).save(stream, kind)
        found[kind] = stream.getvalue()
    return found


def _changed_message(rng: random.Random, seed: bytes) -> bytes:
    """Puts another value in one to three fields of a message."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest.FromString(seed)
    tensor = request.inputs[0]
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind, text = rng.randrange(10), rng.choice([text for text in TEXTS if text.isprintable()])
        side = rng.choice((0, 1, 2, 3, -1, 1 << 31, (1 << 63) - 1, -(1 << 63)))
        if kind == 0:
            tensor.shape[rng.randrange(len(tensor.shape))] = side
        elif kind == 1:
            tensor.shape.append(side)
        elif kind == 2:
            tensor.datatype = rng.choice(("FP32", "BYTES", "FP16", "BOOL", "INT64", text))
        elif kind == 3:
            tensor.name = text
        elif kind == 4:
            request.model_name, request.model_version = rng.choice((("means", "1"), ("colors", text), (text, "")))
        elif kind == 5:
            request.raw_input_contents.append(rng.randbytes(rng.choice((0, 1, 12, 300, 100_000))))
        elif kind == 6:
            del request.raw_input_contents[:]
        elif kind == 7:
            tensor.contents.int_contents.extend([rng.randrange(300)] * rng.choice((1, 12, 10_000)))
        elif kind == 8:
            request.parameters[text].int64_param = side
        else:
            request.inputs.add().CopyFrom(tensor)
    return request.SerializeToString()


def _messages() -> list[bytes]:
    from tritonclient.grpc import service_pb2

    found = []
    for name, kind, shape, count in (("colors", "UINT8", [1, 2, 2, 3], 12), ("means", "FP32", [1, 3, 32, 32], 3072)):
        request = service_pb2.ModelInferRequest(model_name=name, id="a")
        tensor = request.inputs.add(name="image", datatype=kind)
        tensor.shape.extend(shape)
        request.raw_input_contents.append(bytes(count * (4 if kind == "FP32" else 1)))
        found.append(request.SerializeToString())
        del request.raw_input_contents[:]
        contents = tensor.contents.fp32_contents if kind == "FP32" else tensor.contents.uint_contents
        contents.extend([1] * count)
        request.parameters["timeout"].int64_param = 1_000_000
        request.outputs.add(name="labels" if name == "colors" else "logits")
        found.append(request.SerializeToString())
    return found
