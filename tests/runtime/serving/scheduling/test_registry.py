# SPDX-License-Identifier: Apache-2.0
"""What is told of models to everyone who asks."""

from __future__ import annotations

import asyncio

import pytest
from freqfusion_runtime.serving.operation.errors import NotReadyError
from freqfusion_runtime.serving.operation.settings import Settings
from freqfusion_runtime.serving.scheduling.registry import ModelSource
from freqfusion_runtime.serving.scheduling.service import Service


def test_problems_name_files_and_not_the_folders_of_this_machine(tmp_path, monkeypatch):
    broken = tmp_path / "secret place" / "a.onnx"
    broken.parent.mkdir()
    broken.write_bytes(b"garbage")
    monkeypatch.chdir(tmp_path)
    sources = [ModelSource("a", broken), ModelSource("b", broken.relative_to(tmp_path))]

    async def story():
        service = Service(sources, Settings(reload_interval_s=0, grpc_port=None))
        async with service.running():
            await service.loading
            for slot in service.registry.slots:
                assert "secret place" in slot.problem  # in the log and on the terminal
                assert slot.told_problem.startswith("a.onnx ")
                assert "secret place" not in slot.told_problem
                assert str(tmp_path) not in slot.told_problem
                with pytest.raises(NotReadyError) as caught:
                    service.registry.model(slot.source.name)
                assert "secret place" not in str(caught.value)

    asyncio.run(story())
