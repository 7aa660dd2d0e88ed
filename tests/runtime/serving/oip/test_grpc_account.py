# SPDX-License-Identifier: Apache-2.0
"""Calls and streams of gRPC go through one account, and long messages are read beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import grpc
import numpy as np
import pytest
from freqfusion_runtime.serving.oip import grpc_service
from freqfusion_runtime.serving.oip.grpc_service import InferenceService
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.registry import ModelSource
from freqfusion_runtime.serving.scheduling.service import Service
from tritonclient.grpc import service_pb2 as pb


class Aborted(Exception):
    """A call ended with a status."""


class Context:
    """A call as gRPC shows it to a server, with messages that are there already or never come."""

    def __init__(self, *messages: bytes, waits: bool = False) -> None:
        self._messages, self._waits, self.reads = list(messages), waits, 0

    async def read(self) -> object:
        self.reads += 1
        if self._messages:
            return self._messages.pop(0)
        if self._waits:
            await asyncio.Event().wait()
        return grpc.aio.EOF

    def time_remaining(self) -> float | None:
        return None

    def invocation_metadata(self) -> tuple:
        return ()

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Aborted(f"{code.name}: {details}")


def message(side: int, typed: bool = False) -> bytes:
    request = pb.ModelInferRequest(model_name="colors", id="an id")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1, side, side, 3])
    if typed:
        tensor.contents.uint_contents.extend([1] * (side * side * 3))
    else:
        request.raw_input_contents.append(bytes(side * side * 3))
    return request.SerializeToString()


@pytest.fixture
def served(models):
    """Gives a function that tells a story to a service and its gRPC methods."""

    def serve(story, **settings):
        async def main():
            service = Service([ModelSource("colors", models["colors"])], Settings(reload_interval_s=0, **settings))
            async with service.running():
                await service.loading
                methods = InferenceService(service)
                await story(service, methods)
                assert service.memory.held == 0

        asyncio.run(main())

    return serve


async def infer(methods: InferenceService, context: Context):
    return await methods._answer("ModelInfer", pb.ModelInferRequest, context, methods._infer)


def test_long_messages_are_read_in_the_readers_thread_and_short_ones_where_they_come(served, monkeypatch):
    threads = []
    for name in ("read_request", "read_call"):
        original = getattr(grpc_service, name)

        def noted(*arguments, original=original):
            threads.append(threading.current_thread().name.partition("_")[0])
            return original(*arguments)

        monkeypatch.setattr(grpc_service, name, noted)

    async def story(service, methods):
        await infer(methods, Context(message(10)))
        assert threads == ["MainThread"] * 2
        threads.clear()
        answer = await infer(methods, Context(message(300)))
        assert threads == ["reader"] * 2
        assert answer.id == "an id"
        threads.clear()
        async for _ in methods._stream(None, Context(message(300), message(10))):
            pass
        assert threads == ["reader"] * 2 + ["MainThread"] * 2

    served(story)


def test_a_message_that_would_grow_beyond_what_there_is_is_refused_in_calls_and_in_streams(served):
    hostile = message(700, typed=True)  # 1.5 MB of numbers that take 24 bytes each

    async def story(service, methods):
        with pytest.raises(
            Aborted, match=r"INVALID_ARGUMENT: the request needs \d+ MiB to be worked on, all .* 16 MiB"
        ):
            await infer(methods, Context(hostile))
        assert service.memory.held == 0
        answers = [answer async for answer in methods._stream(None, Context(hostile, message(10), hostile))]
        assert [bool(answer.error_message) for answer in answers] == [True, False, True]
        assert "needs" in answers[0].error_message
        labels = np.frombuffer(answers[1].infer_response.raw_output_contents[0], np.int32)
        assert labels.size == 100

    served(story, max_memory_mb=16)


def test_health_is_answered_without_waiting_for_a_message(served):
    async def story(service, methods):
        context = Context(waits=True)
        answer = await methods._answer("ServerReady", pb.ServerReadyRequest, context, methods._ready)
        assert (answer.ready, context.reads) == (True, 0)

    served(story)


def test_a_message_that_does_not_come_gives_its_place_up(served, monkeypatch):
    async def story(service, methods):
        stalled = [asyncio.ensure_future(infer(methods, Context(waits=True))) for _ in range(2)]
        await asyncio.sleep(0)
        impatient = Context(message(10))
        impatient.time_remaining = lambda: 0.05
        with pytest.raises(Aborted, match=r"UNAVAILABLE: 2 messages are arriving, which is the limit\. Try again\."):
            await infer(methods, impatient)
        await infer(methods, Context(message(10)))  # waits for a place
        for call in stalled:
            with pytest.raises(
                Aborted, match=r"DEADLINE_EXCEEDED: the message did not arrive within 0\.3 s\. Send it f"
            ):
                await call

    served(story, body_timeout_s=0.3, max_memory_mb=64, max_body_mb=64)  # two places


def test_streams_beyond_the_limit_are_told_so(served):
    async def story(service, methods):
        held = [methods._stream(None, Context(message(10), waits=True)) for _ in range(2)]
        for stream in held:
            await anext(stream)
        with pytest.raises(
            Aborted, match=r"UNAVAILABLE: 2 streams are open, which is the limit\. .* smaller --max-body-mb"
        ):
            await anext(methods._stream(None, Context(message(10))))
        for stream in held:
            await stream.aclose()
        again = methods._stream(None, Context(message(10)))
        await anext(again)
        await again.aclose()

    served(story, max_memory_mb=64, max_body_mb=64)


def test_methods_that_say_little_take_little(served):
    async def story(service, methods):
        with pytest.raises(
            Aborted, match=r"INVALID_ARGUMENT: the message has 100000 bytes, ModelMetadata takes 65536\."
        ):
            await methods._answer(
                "ModelMetadata", pb.ModelMetadataRequest, Context(bytes(100_000)), methods._model_metadata
            )

    served(story)
