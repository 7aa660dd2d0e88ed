# SPDX-License-Identifier: Apache-2.0
"""``GET /v1/models``: what can be asked here, in the words of people who look at pictures."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter
from pydantic import BaseModel, Field

from freqfusion_runtime.serving.scheduling.registry import Registry, Slot
from freqfusion_runtime.serving.scheduling.service import Service


class ClassEntry(BaseModel):
    """A class a model can find."""

    label: int = Field(description="Its value in label maps")
    name: str
    color: tuple[int, int, int] = Field(description="RGB, 0 to 255")


class PixelBytes(BaseModel):
    """Memory that a run takes beside its input, measured when the model was loaded."""

    network: float = Field(description="For a pixel of the network's own input, which a picture is resized to")
    picture: float = Field(description="For a pixel of the picture, where the network resizes it itself")


class ModelEntry(BaseModel):
    """A model, whether or not it can answer now."""

    name: str
    version: str
    state: str = Field(description="LOADING, READY or UNAVAILABLE")
    is_default: bool = Field(description="Whether requests that name no model go to it")
    problem: str = Field(description="Why it is unavailable, or why its file's newest state is not the one served")
    task: str | None = Field(
        default=None,
        description="Only models for semantic_segmentation answer /v1/segment. Before the model is loaded, what the "
        "manifest beside its file says; null where there is none",
    )
    architecture: str | None = None
    interface: str | None = None
    precision: str | None = None
    weights: str | None = Field(default=None, description="'random' where labels show the plumbing only")
    engine: str | None = Field(default=None, description="What runs it, such as CPUExecutionProvider")
    operators: dict[str, int] | None = Field(default=None, description="How many FreqFusion nodes run by which path")
    sha256: str | None = Field(default=None, description="Of the model file being served")
    bytes_per_pixel: PixelBytes | None = None
    classes: list[ClassEntry] | None = None


class ModelList(BaseModel):
    """Every model of the server."""

    models: list[ModelEntry]
    max_image_pixels: int
    max_body_bytes: int


def router(service: Service) -> APIRouter:
    """Makes the route."""
    routes = APIRouter(tags=["pictures"])

    @routes.get("/v1/models", response_model=ModelList, operation_id="list_models")
    async def models() -> ModelList:
        """Lists the models with their classes and colours."""
        registry, settings = service.registry, service.settings
        return ModelList(
            models=[_entry(slot, registry) for slot in registry.slots],
            max_image_pixels=settings.max_image_pixels,
            max_body_bytes=settings.max_body_bytes,
        )

    return routes


def _entry(slot: Slot, registry: Registry) -> ModelEntry:
    source = slot.source
    is_default = slot is registry.slot(registry.default_name)
    entry = ModelEntry(
        name=source.name,
        version=source.version,
        state=slot.state,
        is_default=is_default,
        problem=slot.told_problem,
        task=slot.told_task,
    )
    model = slot.model
    if model is None:
        return entry
    manifest = model.session.manifest
    colors = zip(model.classes, model.palette, strict=True)
    paths = Counter(f"{node.operator}: {node.path}" for node in model.session.operator_paths)
    return entry.model_copy(
        update={
            "task": manifest.task,
            "architecture": manifest.model,
            "interface": manifest.interface,
            "precision": manifest.precision,
            "weights": manifest.weights,
            "engine": model.session.provider,
            "operators": dict(paths),
            "sha256": model.sha256,
            "bytes_per_pixel": PixelBytes(network=model.footprint.network, picture=model.footprint.picture),
            "classes": [ClassEntry(label=k, name=name, color=color) for k, (name, color) in enumerate(colors)],
        }
    )
