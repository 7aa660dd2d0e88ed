# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/segment``: a picture in, its labels out, in the form the client accepts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from freqfusion_runtime.results.segmentation import Segmentation
from freqfusion_runtime.serving.http.answers import Answer
from freqfusion_runtime.serving.http.api_schema import ERRORS, SEGMENT_ANSWER, SEGMENT_BODY
from freqfusion_runtime.serving.http.encoders import ENCODING_BYTES, Encoded, Wish, choose, encode, geometry_bytes
from freqfusion_runtime.serving.http.requests import (
    FORM_TYPE,
    INLINE_BYTES,
    content_type,
    deadline_of,
    read_body,
    record_of,
    while_connected,
)
from freqfusion_runtime.serving.operation.errors import BadRequestError, NotAcceptableError, UnsupportedMediaError
from freqfusion_runtime.serving.scheduling.inference import counted
from freqfusion_runtime.serving.scheduling.pipeline import segment
from freqfusion_runtime.serving.scheduling.registry import LoadedModel
from freqfusion_runtime.serving.scheduling.service import Service

Geometry = Literal["all", "rle", "polygons", "none"]
_GEOMETRY = {
    "all": frozenset({"rle", "polygons"}),
    "rle": frozenset({"rle"}),
    "polygons": frozenset({"polygons"}),
    "none": frozenset[str](),
}
View = Literal["labels", "overlay"]
_OPACITY = 0.55
_FORMATS = "image/png, image/png;view=overlay, image/jpeg, image/webp, application/json or application/octet-stream"


@dataclass(frozen=True)
class SegmentQuery:
    """The query of a request, as the route documents it."""

    model: str | None = None
    version: str = ""
    classes: str | None = None
    size: int | None = None
    view: View | None = None
    opacity: float = _OPACITY
    geometry: Geometry = "all"


def router(service: Service) -> APIRouter:
    """Makes the route."""
    routes = APIRouter(tags=["pictures"])

    @routes.post(
        "/v1/segment",
        operation_id="segment",
        response_class=Response,
        responses={200: SEGMENT_ANSWER, **ERRORS},
        openapi_extra={"requestBody": SEGMENT_BODY},
    )
    async def segment_picture(
        request: Request,
        model: Annotated[str | None, Query(description="Name of the model; the server's first by default")] = None,
        version: Annotated[str, Query(description="Its version; the highest by default")] = "",
        classes: Annotated[
            str | None, Query(description="Names or numbers, separated by commas: show these only")
        ] = None,
        size: Annotated[
            int | None, Query(ge=1, le=100_000, description="Reduce the picture to this long side first")
        ] = None,
        view: Annotated[View | None, Query(description="Which PNG to make; labels by default")] = None,
        opacity: Annotated[float, Query(ge=0, le=1, description="Of an overlay's colours")] = _OPACITY,
        geometry: Annotated[Geometry, Query(description="Which areas JSON holds")] = "all",
    ) -> Response:
        """Labels every pixel of a picture.

        `Accept` chooses the answer: `image/png` (8-bit labels with a palette), `image/png;view=overlay`, `image/jpeg`
        or `image/webp` (the picture under the classes' colours), `application/json` (areas, run-length codes, polygons)
        or `application/octet-stream` (labels, row by row). `Server-Timing` says how long each stage took.
        """
        wishes = SegmentQuery(model, version, classes, size, view, opacity, geometry)
        return await segment_answer(service, request, wishes)

    return routes


async def segment_answer(service: Service, request: Request, query: SegmentQuery) -> Response:
    """Answers a request for a picture's labels.

    Raises:
        ServingError: If it is refused, or fails.
    """
    record, settings = record_of(request), service.settings
    deadline = deadline_of(request, settings)
    kind = choose(request.headers.getlist("accept"), query.view)
    if kind is None:
        accept = request.headers.get("accept", "")[:80]
        raise NotAcceptableError(f"no answer can be made for 'Accept: {accept}'. Accept {_FORMATS}.")
    loaded = service.registry.segmenter(query.model or service.registry.default_name, query.version)
    record.model = loaded.source.name
    selected = _selected(query.classes, loaded)
    service.scheduler.check_room(loaded, deadline)
    data = await _picture(request, await read_body(request, service, deadline), service, deadline)

    def finish(segmentation: Segmentation) -> Encoded:
        facts = {"model": loaded.source.name, "version": loaded.source.version, "request_id": record.request_id}
        wish = Wish(kind, selected, query.opacity, _GEOMETRY[query.geometry], facts)
        record.holding.add(geometry_bytes(segmentation.labels, wish))
        return record.stages.timed("encode", lambda: encode(segmentation, wish))

    with service.scheduler.admit(loaded, deadline) as admission, counted(service, loaded, record.stages):
        work = segment(
            loaded,
            data,
            size=query.size,
            scheduler=service.scheduler,
            admission=admission,
            workers=service.workers,
            holding=record.holding,
            deadline=deadline,
            stages=record.stages,
            finish=finish,
            finish_bytes=ENCODING_BYTES[kind],
        )
        encoded = await while_connected(request, work)
    headers = {**encoded.headers, "Server-Timing": record.stages.header(), "Vary": "Accept"}
    record.holding.add(len(encoded.body))
    return Answer(encoded.body, media_type=encoded.media_type, headers=headers)


def _selected(classes: str | None, model: LoadedModel) -> frozenset[int] | None:
    if classes is None:
        return None
    names = model.classes
    numbers = {name.lower(): label for label, name in enumerate(names)}
    found = set()
    for word in (part.strip().lower() for part in classes.split(",")):
        if word in numbers:
            found.add(numbers[word])
        elif word.isascii() and word.isdigit() and len(word) < 10 and int(word) < len(names):
            found.add(int(word))
        else:
            raise BadRequestError(
                f"model {model.source.name!r} has no class {word[:40]!r}. Its {len(names)} classes are listed in "
                "/v1/models."
            )
    return frozenset(found)


async def _picture(request: Request, body: bytes, service: Service, deadline: float) -> bytes:
    """Takes the picture out of a form, or the body as it is."""
    kind = content_type(request)
    if kind == "multipart/form-data":
        holding = record_of(request).holding
        holding.add(2 * len(body))  # in the form, and out of it
        size = len(body)
        if size > INLINE_BYTES:
            body = await service.in_thread(service.readers, lambda: _from_form(request, body), holding, deadline)
        else:
            body = _from_form(request, body)
        holding.give_back(size)
    elif kind.startswith(("text/", "multipart/")) or kind in ("application/json", FORM_TYPE):
        raise UnsupportedMediaError(
            f"a body of type {kind[:60]!r} is no picture. Send the file itself, as image/jpeg for example, or a form "
            "with the field 'image'."
        )
    if not body:
        raise BadRequestError(
            "the body is empty. Send a picture with -H 'Content-Type: image/jpeg' --data-binary @photo.jpg or "
            "-F image=@photo.jpg."
        )
    return body


def _from_form(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    async def parsed() -> bytes:
        parser = MultiPartParser(request.headers, stream(), max_files=2, max_fields=2)
        parser.spool_max_size = len(body) + 1  # it is in memory already, and must not go to disk from there
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError) as e:
            reason = getattr(e, "message", str(e)) or "it is malformed"
            raise BadRequestError(f"the form cannot be read: {reason}. Send it as curl -F does.") from e
        fields: list[tuple[str, Any]] = form.multi_items()
        if len(fields) != 1 or fields[0][0] != "image" or not isinstance(fields[0][1], UploadFile):
            names = ", ".join(repr(name[:40]) for name, _ in fields) or "no field"
            raise BadRequestError(
                f"the form must have one field, the file 'image', got {names}. Use -F image=@photo.jpg."
            )
        content: bytes = await fields[0][1].read()
        return content

    # All of it is in memory, so nothing here waits, and no event loop is needed.
    parsing = parsed()
    try:
        parsing.send(None)
    except StopIteration as done:
        content: bytes = done.value
        return content
    finally:
        parsing.close()
    raise AssertionError("the form was not read in one go")
