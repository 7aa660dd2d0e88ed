# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of every format, and training configs."""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path
from typing import Any

import torch
from freqfusion import CheckpointError
from freqfusion.checkpoint import read_checkpoint
from freqfusion.configs.reader import read_config
from freqfusion.configs.settings import settings_of
from fuzzing.memory import OwnMemory
from fuzzing.mutations import mutated, mutated_json

CONFIG = """
_base_ = ['../base.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
sizes = [(512, 2048)] * 2 + [(x, 1) for x in ()]
model = dict(type='EncoderDecoder', backbone=dict(type='MSCAN', norm_cfg=norm_cfg), test_cfg=dict(mode='whole'))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug', img_scale=(2048, 512), flip=False,
    transforms=[dict(type='Resize', keep_ratio=True), dict(type='Normalize', **img_norm_cfg)])]
model['test_cfg'].update(mode='slide', crop_size=(512, 512), stride=(341, 341))
if True:
    lr = 2 * 0.1
"""
META = {
    "CLASSES": ["wall", "sky", "a\nb"],
    "PALETTE": [[1, 2, 3], [255, 0, 4], [0.5, 0.5, 0.5]],
    "config": CONFIG,
    "image_size": [2048, 512],
    "weights": "random",
    "model": "segnext_t",
}


class Checkpoint(OwnMemory):
    """Files of ``torch.save`` old and new, plain pickles, safetensors with metadata, and folders with an index."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import save

        self.folder = folder
        state = {
            "a.weight": torch.arange(12.0).reshape(3, 4),
            "a.bias": torch.ones(3).expand(2, 3),
            "b": torch.tensor(3),
        }
        quantised = torch.quantize_per_tensor(torch.rand(3), 0.1, 3, torch.quint8)
        content = {
            "state_dict": {**state, "q": quantised, "s": torch.eye(3).to_sparse()},
            "meta": META,
            "optimizer": [1],
        }
        arrays = {"model": {name: value.numpy() for name, value in state.items()}, "__author__": "x", "meta": META}
        metadata = {"classes": '["a", "b"]', "palette": "[[1,2,3],[4,5,6]]", "config": CONFIG}
        whole = {name: value.contiguous() for name, value in state.items()}
        self.seeds = [
            _saved(content),
            _saved(content, _use_new_zipfile_serialization=False),
            pickle.dumps(arrays, protocol=2),
            pickle.dumps(arrays, protocol=4),
            save(whole, metadata=metadata),
        ]
        self.index = {"metadata": {"total_size": 60}, "weight_map": dict.fromkeys(whole, "shard.safetensors")}
        (folder / "sharded").mkdir()
        (folder / "sharded" / "shard.safetensors").write_bytes(save(whole))

    def make(self, rng: random.Random) -> Any:
        if rng.random() < 0.08:
            return "sharded/model.safetensors.index.json", mutated_json(rng, self.index)
        seed = rng.choice(self.seeds)
        return "checkpoint.pth", mutated(rng, [seed] if rng.random() < 0.9 else self.seeds)

    def give(self, case: Any) -> bool:
        name, data = case
        path = self.folder / name
        path.unlink(missing_ok=True)  # tensors of the last one may still lie in the file
        path.write_bytes(data)
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError:
            return False
        for tensor in checkpoint.state_dict.values():
            assert tensor.is_meta or tensor.layout != torch.strided or tensor.shape is not None
        return True


class TrainingConfig(OwnMemory):
    """Texts of a config in a checkpoint, and what they mean for a network."""

    def __init__(self, folder: Path) -> None:
        self.seeds = [CONFIG.encode(), b"a = [0]\nb = [a, a]\nc = [b, b]\nd = dict(x=c, **{'y': c})\ne = a * 9 + b\n"]

    def make(self, rng: random.Random) -> Any:
        if rng.random() < 0.1:
            return mutated_json(rng, {"model": {"type": "X"}, "test_pipeline": [{"type": "Resize", "scale": [1, 2]}]})
        return mutated(rng, self.seeds)

    def give(self, case: Any) -> bool:
        config = read_config(case.decode("utf-8", "replace"))
        try:
            settings_of(config, {"a.weight": torch.ones(3, 4)}, None)
        except CheckpointError:
            return False
        return not config.problem


def _saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()
