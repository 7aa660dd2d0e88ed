# SPDX-License-Identifier: Apache-2.0
"""The README of a model repository: how to start the server and how to ask it, for the models that are in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from shlex import quote
from typing import Any

import numpy as np

from freqfusion_runtime.model_files.free_sizes import usual_shapes
from freqfusion_runtime.model_files.manifest import Manifest

_SIDE = 512
_TRITON_DTYPES = {
    **{"bool": "BOOL", "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64"},
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_BYTES = {"bfloat16": 2}  # which numpy does not have


def write_readme(models: Sequence[dict[str, Any]], folder: str) -> str:
    """Writes the page.

    Args:
        models: What each model's ``freqfusion.json`` holds.
        folder: Name of the repository's folder.
    """
    parts = [_start(models, folder), *(_model(model) for model in models)]
    return "\n".join(parts)


def _start(models: Sequence[dict[str, Any]], folder: str) -> str:
    first = models[0]
    gpu = "" if all(model["device"] == "cpu" for model in models) else " --gpus all"
    plugins = sorted({m["library"] for m in models if m["platform"] == "tensorrt_plan" and m["library"]})
    # All files are one library under several models' names; registering it twice is refused.
    option = f" \\\n    {quote(f'--backend-config=tensorrt,plugins={plugins[0]}')}" if plugins else ""
    volume = f"{folder}:{first['mount']}:ro"
    lines = [
        f"# Triton model repository `{folder}`",
        "",
        "Written by `freqfusion triton`. Start the server in the folder that holds this one:",
        "",
        "```sh",
        f"docker run --rm{gpu} --shm-size=1g -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -p 127.0.0.1:8002:8002 \\",
        f'  -v "$PWD"/{quote(volume)} {quote(first["image"])} \\',
        f"  tritonserver --model-repository={quote(first['mount'])}{option}",
        "```",
        "",
        f"The repository must be mounted at `{first['mount']}`: paths of libraries in it start there.",
        "",
    ]
    if any(model["platform"] == "tensorrt_plan" for model in models):
        lines += [
            "A plan runs on the GPU architecture and the TensorRT version it was built with: choose the image whose",
            "TensorRT is that version. The plugin is loaded for the whole server, once",
            *(
                [f"(`LD_PRELOAD={quote(plugins[0])}` in front of `tritonserver` does the same).", ""]
                if plugins
                else [
                    "with `--backend-config=tensorrt,plugins=/path/libfreqfusion_tensorrt.so`. It is not in this",
                    "repository: a plan that was built with it cannot be read without.",
                    "",
                ]
            ),
        ]
    if any(model["platform"] != "tensorrt_plan" and model["library"] for model in models):
        lines += [
            "`model_operations` in `config.pbtxt` loads our kernels. The image's ONNX Runtime must not be older than",
            "the one the library was built for; without that line the file runs on function bodies, more slowly. A",
            "library built without CUDA computes its nodes on the CPU even where Triton uses a GPU: write the",
            "repository with `--kernels never` for a GPU then.",
            "",
        ]
    return "\n".join(lines)


def _model(model: dict[str, Any]) -> str:
    manifest = model["manifest"]
    name, output = model["name"], model["outputs"][0]
    # Of models that take pictures the first input alone, as their clients below.
    tensors = model["inputs"] if manifest["task"] == "network" else model["inputs"][:1]
    dims = _example_dims(model, tensors)
    sizes = [math.prod(dims[tensor["name"]]) * _item_bytes(tensor["dtype"]) for tensor in tensors]
    batching = (
        f"Requests of one size are run together, up to {model['max_batch_size']}; those of different sizes are not, "
        "and none is stretched."
        if model["max_batch_size"] > 1
        else "Each request is run alone."
    )
    inputs = ",".join(
        f'{{"name":"{tensor["name"]}","shape":{dims[tensor["name"]]},"datatype":"{_TRITON_DTYPES[tensor["dtype"]]}",'
        f'"parameters":{{"binary_data_size":{size}}}}}'
        for tensor, size in zip(tensors, sizes, strict=True)
    )
    header = (
        f'{{"inputs":[{inputs}],"outputs":[{{"name":"{output["name"]}","parameters":{{"binary_data":true}}}}]}}'
    ).replace(" ", "")
    weights = "" if manifest["weights"] != "random" else " Its weights are random: the labels show the plumbing only."
    lines = [
        f"## `{name}`",
        "",
        f"{manifest['model']} {manifest['precision']}, {manifest['interface']} interface, `{model['file']}`, sha256",
        f"`{model['model_sha256']}`.{weights} {batching}",
        "",
        "in "
        + ", ".join(f"`{t['name']}` {_TRITON_DTYPES[t['dtype']]} {_shape(t)}" for t in tensors)
        + f", out `{output['name']}` {_shape(output)}. "
        + ("" if manifest["task"] == "network" else "`labels.txt` names the classes."),
        "",
        "```sh",
        f"curl -s localhost:8000/v2/models/{name}/config",
        f"printf '%s' '{header}' > header.json",
        f"head -c {sum(sizes)} /dev/zero | cat header.json - | curl -s --data-binary @- -o answer.bin \\",
        '  -H "Inference-Header-Content-Length: $(wc -c < header.json)" -H "Content-Type: application/octet-stream" \\',
        f"  localhost:8000/v2/models/{name}/infer",
        "```",
        "",
        "```python",
        *_client(model),
        "```",
        "",
    ]
    return "\n".join(lines)


def _shape(tensor: dict[str, Any]) -> str:
    return "[" + ", ".join(map(str, tensor["shape"])) + "]"


def _example_dims(model: dict[str, Any], tensors: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    if model["manifest"]["task"] == "network":
        shapes = usual_shapes(Manifest.from_record(model["manifest"]))
        return {tensor["name"]: list(shapes[tensor["name"]]) for tensor in tensors}
    return {
        tensor["name"]: [s if isinstance(s, int) else 1 if i == 0 else _SIDE for i, s in enumerate(tensor["shape"])]
        for tensor in tensors
    }


def _item_bytes(dtype: str) -> int:
    return _BYTES.get(dtype) or np.dtype(dtype).itemsize


def _client(model: dict[str, Any]) -> list[str]:
    if model["manifest"]["task"] == "network":
        return _network_client(model)
    return _image_client(model) if model["manifest"]["interface"] == "image" else _tensor_client(model)


def _network_client(model: dict[str, Any]) -> list[str]:
    dims = _example_dims(model, model["inputs"])
    arrays = [f'    "{t["name"]}": np.zeros({dims[t["name"]]}, np.{t["dtype"]}),' for t in model["inputs"]]
    return [
        "import numpy as np, tritonclient.http as triton  # pip install 'tritonclient[http]'",
        "from tritonclient.utils import np_to_triton_dtype",
        "",
        "arrays = {",
        *arrays,
        "}",
        "tensors = [triton.InferInput(name, a.shape, np_to_triton_dtype(a.dtype)) for name, a in arrays.items()]",
        "for tensor, array in zip(tensors, arrays.values()):",
        "    tensor.set_data_from_numpy(array)",
        'client = triton.InferenceServerClient("localhost:8000")',
        f'answer = client.infer("{model["name"]}", tensors)',
        f"for name in {[output['name'] for output in model['outputs']]}:",
        "    print(name, answer.as_numpy(name).shape, answer.as_numpy(name).dtype)",
    ]


def _image_client(model: dict[str, Any]) -> list[str]:
    return [
        "import numpy as np, tritonclient.http as triton  # pip install 'tritonclient[http]' pillow",
        "from PIL import Image",
        "",
        'picture = np.asarray(Image.open("photo.jpg").convert("RGB"))[None]',
        *_ask(model),
    ]


def _tensor_client(model: dict[str, Any]) -> list[str]:
    plan = model["manifest"]["preprocessing"]
    spec, tensor = model["inputs"][0], model["inputs"][0]
    sides = [side if isinstance(side, int) else _SIDE for side in tensor["shape"][2:]]
    order = "" if plan["color_order"] == "RGB" else "[..., ::-1]"
    dtype = {"float16": "np.float16"}.get(spec["dtype"], "np.float32")
    return [
        "import numpy as np, tritonclient.http as triton  # pip install 'tritonclient[http]' pillow",
        "from PIL import Image",
        "",
        f"# Both sides must be multiples of {plan['size_divisor']}.",
        f'photo = Image.open("photo.jpg").convert("RGB").resize(({sides[1]}, {sides[0]}))',
        f"scaled = (np.asarray(photo){order} - np.array({plan['mean']})) / np.array({plan['std']})",
        f"picture = scaled.transpose(2, 0, 1)[None].astype({dtype})",
        *_ask(model),
    ]


def _ask(model: dict[str, Any]) -> list[str]:
    tensor, output = model["inputs"][0], model["outputs"][0]
    return [
        f'tensor = triton.InferInput("{tensor["name"]}", picture.shape, "{_TRITON_DTYPES[tensor["dtype"]]}")',
        "tensor.set_data_from_numpy(picture)",
        'client = triton.InferenceServerClient("localhost:8000")',
        f'answer = client.infer("{model["name"]}", [tensor]).as_numpy("{output["name"]}")',
        "print(answer.shape, answer.dtype)",
    ]
