# SPDX-License-Identifier: Apache-2.0
"""What other runtimes and tools make of exported files: `make consumers`.

    .venv/bin/python benchmarks/consumers [--only NAME ...] [--model FILE.onnx] [--output FILE.jsonl]

Each reads the file with functions, the inlined one, and the inlined one with fixed sizes, in an environment of its own
with pinned packages, and computes the logits of one input. They are compared with ONNX Runtime's on the file as
exported, which is held to PyTorch when it is written. Right is within 1e-3 of the logits' deviation. Each attempt gives
a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / place) for place in ("runtime", "export", "models")]

from freqfusion_runtime.building.plain_file import write_plain_file  # noqa: E402
from freqfusion_runtime.commands.json_output import versions  # noqa: E402
from freqfusion_runtime.files import sha256_of  # noqa: E402
from freqfusion_runtime.predictors.opening import open_session  # noqa: E402

READERS = Path(__file__).parent / "readers"
SHAPE = (1, 3, 256, 320)
RIGHT = 1e-3  # of the logits' deviation
OPSET, IR_VERSION = 17, 8  # of the inlined files: the oldest in which the networks can be written
FORMS = ("functions", "inlined", "fixed")
WAIT_S = 600


@dataclass(frozen=True)
class Consumer:
    """A reader: its name, pinned packages, the program in ``readers/``, and arguments before the file's."""

    name: str
    packages: tuple[str, ...]
    program: str
    arguments: tuple[str, ...] = ()


_ORT = "onnxruntime==1.32.0"
CONSUMERS = (
    Consumer("OpenVINO", ("openvino==2026.4.1",), "with_openvino.py"),
    Consumer("ONNX Runtime with OpenVINO", ("onnxruntime-openvino==1.24.1",), "with_onnxruntime.py"),
    Consumer("ONNX Runtime for browsers", ("onnxruntime-web@1.30.0",), "with_onnxruntime_web.mjs"),
    Consumer("onnx.reference", ("onnx==1.23.2",), "with_onnx_reference.py"),
    Consumer("MNN", ("MNN==3.6.1", "numpy==2.4.6"), "with_mnn.py"),
    Consumer("tract", ("tract==0.23.9", "numpy==2.4.6"), "with_tract.py"),
    Consumer("TVM", ("apache-tvm==0.27.0.post1", "onnx==1.23.2", "numpy==2.4.6"), "with_tvm.py"),
    Consumer("IREE", ("iree-base-compiler==3.13.0", "iree-base-runtime==3.13.0", "onnx==1.23.2"), "with_iree.py"),
    Consumer("onnxslim", ("onnxslim==0.1.98", _ORT), "with_onnxruntime.py", ("onnxslim", "{in}", "{out}")),
    Consumer("onnxsim", ("onnxsim==0.8.1", _ORT), "with_onnxruntime.py", ("onnxsim", "{in}", "{out}")),
    Consumer(
        "Polygraphy",
        ("polygraphy==0.53.6", "onnx-graphsurgeon==0.6.1", "onnx==1.23.2", _ORT),
        "with_onnxruntime.py",
        ("polygraphy", "surgeon", "sanitize", "--fold-constants", "{in}", "-o", "{out}"),
    ),
    Consumer("onnx-graphsurgeon", ("onnx-graphsurgeon==0.6.1", "onnx==1.23.2", _ORT), "with_graphsurgeon.py"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[c.name for c in CONSUMERS], help="else all")
    parser.add_argument("--model", type=Path, help="an exported file of the tensor interface; else SegNeXt-T, made now")
    parser.add_argument("--environments", type=Path, default=ROOT / "build" / "consumers", help="where they are kept")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="append the lines there, too")
    args = parser.parse_args()
    chosen = [consumer for consumer in CONSUMERS if not args.only or consumer.name in args.only]
    silent = 0
    with tempfile.TemporaryDirectory(prefix="consumers-") as folder:
        work = Path(folder)
        files = forms(args.model or export_segnext(work / "functions.onnx"), work)
        images = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
        np.savez(work / "inputs.npz", images=images)
        images.tofile(work / "inputs.bin")
        expected = open_session(files["functions"], kernels="never").run({"images": images})["logits"]
        facts = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "model_sha256": sha256_of(files["functions"]),
            "versions": versions(),
        }
        print(f"{'':<28} " + " ".join(f"{form:>24}" for form in FORMS))
        for consumer in chosen:
            environment = prepared(consumer, args.environments)
            told = []
            for form in FORMS:
                line = {"part": "consumers", "consumer": consumer.name, "packages": consumer.packages, "form": form}
                line |= attempt(consumer, environment, files[form], work, expected)
                silent += line["outcome"] == "wrong"
                told.append(words(line))
                if args.output:
                    with args.output.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({**line, **facts}) + "\n")
            print(f"{consumer.name:<28} " + " ".join(f"{text:>24}" for text in told), flush=True)
    return 1 if silent else 0


def export_segnext(path: Path) -> Path:
    """SegNeXt-T with made-up weights, as the exporter writes it."""
    from freqfusion import create_model
    from freqfusion_export import export

    export(create_model("segnext_t", num_classes=150), path, interface="tensor")
    return path


def forms(exported: Path, work: Path) -> dict[str, Path]:
    """The file in each form."""
    older = {"opset": OPSET, "ir_version": IR_VERSION}
    files = {"functions": exported, "inlined": work / "inlined.onnx", "fixed": work / "fixed.onnx"}
    write_plain_file(exported, files["inlined"], **older)
    write_plain_file(exported, files["fixed"], shapes={"images": SHAPE}, **older)
    return files


def prepared(consumer: Consumer, place: Path) -> Path:
    """An environment with the consumer's packages, made unless it is there."""
    folder = place / consumer.name.lower().replace(" ", "-")
    stamp = folder / "packages.txt"
    if stamp.is_file() and stamp.read_text() == "\n".join(consumer.packages):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if consumer.program.endswith(".mjs"):
        subprocess.run(["npm", "install", "--silent", "--prefix", folder, *consumer.packages], check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *consumer.packages], check=True)
    stamp.write_text("\n".join(consumer.packages))
    return folder


def attempt(consumer: Consumer, environment: Path, model: Path, work: Path, expected: np.ndarray) -> dict[str, object]:
    """Lets a consumer read one file; gives how it went and how far off it was."""
    outputs, copy = work / "outputs.npz", work / "given.onnx"
    outputs.unlink(missing_ok=True)
    shutil.copy(model, copy)  # some write into their input
    program = READERS / consumer.program
    if program.suffix == ".mjs":
        shutil.copy(program, environment / program.name)  # Node looks for packages from where the program lies
        outputs = work / "outputs.bin"
        command = ["node", environment / program.name, copy, work / "inputs.bin", "x".join(map(str, SHAPE)), outputs]
    else:
        command = [environment / "bin" / "python", program, *consumer.arguments, copy, work / "inputs.npz", outputs]
    begin = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, cwd=work, check=False)
    except subprocess.TimeoutExpired:
        return {"outcome": "refused", "reason": f"not done in {WAIT_S} s"}
    seconds = round(time.monotonic() - begin, 1)
    if done.returncode or not outputs.is_file():
        lines = [line for line in done.stderr.splitlines() if "rror" in line] or done.stderr.splitlines() or [""]
        return {"outcome": "refused", "reason": lines[-1].strip()[:300], "seconds": seconds}
    found = np.fromfile(outputs, np.float32) if outputs.suffix == ".bin" else np.load(outputs)["logits"]
    if found.size != expected.size:
        return {"outcome": "wrong", "reason": f"gives {found.shape}, not {expected.shape}", "seconds": seconds}
    found = found.reshape(expected.shape)
    error = float(np.abs(found - expected).max() / expected.std())
    agreement = float((found.argmax(1) == expected.argmax(1)).mean())
    outcome = "right" if error <= RIGHT else "wrong"  # not a number is wrong, too
    return {"outcome": outcome, "error_over_std": error, "label_agreement": agreement, "seconds": seconds}


def words(line: dict[str, object]) -> str:
    """One cell of the table."""
    if line["outcome"] == "refused":
        return "refused"
    return f"{line['outcome']} ({line.get('error_over_std', float('nan')):.1e})"


if __name__ == "__main__":
    sys.exit(main())
