# SPDX-License-Identifier: Apache-2.0
"""`freqfusion batch`: every picture once, whatever happens in between."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import freqfusion_runtime
import numpy as np
import pytest
from freqfusion_runtime.batch.items import Item, content, find_items
from freqfusion_runtime.batch.labeller import Work
from freqfusion_runtime.batch.ledger import open_ledger
from freqfusion_runtime.batch.local_engine import label_locally
from freqfusion_runtime.commands.cli import main
from PIL import Image
from places import ROOT
from small_models import CLASSES, keep_weights_outside, write_image_model, write_tensor_model

RUNTIME = ROOT / "runtime"
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'freqfusion-deploy[ray]'"
)
needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed: pip install 'freqfusion-deploy[ray]'"
)


def draw(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(colors).resize(size, Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def model(tmp_path):
    return write_image_model(tmp_path / "net.onnx")


@pytest.fixture
def photos(tmp_path):
    """Seven pictures, two of the same stem; one that is none; one hidden."""
    folder = tmp_path / "photos"
    for index in range(5):
        draw(folder / "deep" / "er" / f"{index}.png", index)
    draw(folder / "same.png", 5)
    draw(folder / "same.bmp", 6)
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.md").write_text("none either")
    draw(folder / ".hidden.png", 7)
    return folder


def batch(model: Path, source: Path, out: Path, *options: str) -> tuple[int, dict]:
    report = out.parent / "report.json"
    status = main(["batch", str(model), str(source), "--output", str(out), "--json", str(report), *options])
    return status, json.loads(report.read_text()) if status < 2 else {}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_labels(model: Path, photos: Path, out: Path, count: int) -> None:
    segmenter = freqfusion_runtime.load(model)
    written = sorted(out.rglob("*.labels.png"))
    assert len(written) == count
    for path in written:
        photo = photos / path.relative_to(out).as_posix().removesuffix(".labels.png")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), segmenter.predict(photo).labels)


def test_a_folder_then_nothing_more_to_do(tmp_path, model, photos, capsys):
    out = tmp_path / "out"
    status, facts = batch(model, photos, out, "--overlay", "--workers", "2")
    assert status == 1
    assert (facts["found"], facts["done"], facts["skipped"], facts["failed"]) == (8, 7, 0, 1)
    check_labels(model, photos, out, 7)
    assert len(list(out.rglob("*.overlay.jpg"))) == 7
    assert sum(entry["pixels"] for entry in facts["classes"]) == 7 * 40 * 30
    assert {entry["name"] for entry in facts["classes"]} <= set(CLASSES)
    assert [entry["input"] for entry in lines(out / "failures.jsonl")] == [str(photos / "broken.jpg")]
    assert "1 of 8 pictures could not be done" in capsys.readouterr().err

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (photos / "broken.jpg").unlink()
    status, again = batch(model, photos, out, "--overlay")
    assert status == 0
    assert (again["found"], again["done"], again["skipped"], again["failed"]) == (7, 0, 7, 0)
    assert again["classes"] == facts["classes"]  # of all that is done, not of this run
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == stamps
    assert (out / "failures.jsonl").read_text() == ""


def test_what_has_changed_is_done_again(tmp_path, model, photos):
    (photos / "broken.jpg").unlink()
    out = tmp_path / "out"
    assert batch(model, photos, out)[1]["done"] == 7
    draw(photos / "same.png", 99)
    (out / "deep" / "er" / "0.png.labels.png").unlink()
    with (out / "deep" / "er" / "1.png.labels.png").open("r+b") as file:
        file.truncate(20)
    with (out / "done.jsonl").open("a") as file:
        file.write('{"key": "cut sho')  # as a crash leaves it
    assert batch(model, photos, out)[1]["done"] == 3
    check_labels(model, photos, out, 7)
    assert batch(model, photos, out)[1]["done"] == 0
    assert batch(model, photos, out, "--overlay")[1]["done"] == 7
    write_tensor_model(model)
    assert batch(model, photos, out)[1]["done"] == 7
    check_labels(model, photos, out, 7)


def test_what_is_no_file_or_has_no_end_costs_its_own_place_and_no_time(tmp_path, model, photos):
    (photos / "broken.jpg").unlink()
    os.mkfifo(photos / "waits.jpg")
    os.mkfifo(photos / "waits_without_a_suffix")
    (photos / "endless.png").symlink_to("/dev/zero")
    with (photos / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    status, facts = batch(model, photos, tmp_path / "out", "--max-pixels", "100000")
    assert (status, facts["done"], facts["failed"]) == (1, 7, 3)
    errors = [entry["error"].removeprefix(f"{photos}/") for entry in lines(tmp_path / "out" / "failures.jsonl")]
    assert sorted(errors) == [
        "endless.png cannot be read: it is a device, not a regular file. Check it.",
        f"sparse.png has {1 << 40} bytes, a picture of 0.1 megapixels at most 67908864. Make it smaller, or raise the "
        "limit (--max-pixels) if it is trusted.",
        "waits.jpg cannot be read: it is a fifo, not a regular file. Check it.",
    ]


def test_results_never_leave_the_output_by_a_link_in_it(tmp_path, model, photos, capsys):
    (photos / "broken.jpg").unlink()
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    for link in ("deep", ".freqfusion-batch", "failures.jsonl"):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / link).symlink_to(outside)
        assert batch(model, photos, out)[0] == 2
        assert re.search(
            rf"{link}\S* cannot be written: a link in {out} leads out of it, to {outside}", capsys.readouterr().err
        )
        assert list(outside.iterdir()) == []
    shutil.rmtree(out)
    out.mkdir()
    os.mkfifo(out / "done.jsonl")
    assert batch(model, photos, out)[0] == 2
    assert "done.jsonl cannot be written: it is a FIFO, not a file" in capsys.readouterr().err


def test_a_list_with_repetitions(tmp_path, model, photos):
    elsewhere = draw(tmp_path / "elsewhere" / "x.png", 8)
    listing = photos / "all.txt"
    listing.write_text(
        f"same.png\n\ndeep/er/../er/0.png\n{photos / 'same.png'}\n{elsewhere}\nmissing.png\n./same.png\n"
    )
    status, facts = batch(model, listing, tmp_path / "out")
    assert status == 1
    assert (facts["found"], facts["duplicates"], facts["done"], facts["failed"]) == (4, 2, 3, 1)
    assert "missing.png cannot be read: no such file" in lines(tmp_path / "out" / "failures.jsonl")[0]["error"]
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.labels.png")}
    assert names == {
        "same.png.labels.png",
        "deep/er/0.png.labels.png",
        f"outside{elsewhere.as_posix()}.labels.png",
    }


@needs_pyarrow
@pytest.mark.parametrize("kind", ["paths", "bytes", "records"])
def test_a_table(tmp_path, model, photos, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (photos / "broken.jpg").unlink()
    files = sorted(photos.rglob("[!.]*.[pb][nm][gp]"))
    assert len(files) == 7
    values = {
        "paths": [str(path.relative_to(photos)) for path in files],
        "bytes": [path.read_bytes() for path in files],
        "records": [{"bytes": path.read_bytes(), "path": path.name} for path in files],
    }[kind]
    table = photos / "all.parquet"
    pq.write_table(pa.table({"id": list(range(7)), "image": values}), table, row_group_size=3)
    out = tmp_path / "out"
    status, facts = batch(model, table, out, "--workers", "1")
    assert (status, facts["done"]) == (0, 7)
    assert batch(model, table, out)[1]["skipped"] == 7
    if kind == "paths":
        check_labels(model, photos, out, 7)
        return
    segmenter = freqfusion_runtime.load(model)
    for row, path in enumerate(files):
        labels = np.asarray(Image.open(out / "all" / f"{row:09d}.labels.png"))
        np.testing.assert_array_equal(labels, segmenter.predict(path).labels)
    assert main(["batch", str(model), str(table), "--output", str(out), "--column", "id"]) == 2
    assert main(["batch", str(model), str(table), "--output", str(out), "--column", "none"]) == 2


def test_weights_that_changed_outside_the_model_file_are_another_model(tmp_path, model, photos):
    data = keep_weights_outside(model).with_name("net.data")
    out = tmp_path / "out"
    assert batch(model, photos, out, "--workers", "1")[1]["done"] == 7
    assert batch(model, photos, out)[1]["skipped"] == 7
    data.write_bytes(data.read_bytes()[::-1])
    facts = batch(model, photos, out, "--workers", "1")[1]
    assert (facts["skipped"], facts["done"]) == (0, 7)


def test_killed_in_the_middle_and_resumed(tmp_path, photos):
    """SIGKILL leaves whole files only, and no worker behind; the second run does the rest."""
    (photos / "broken.jpg").unlink()
    for index in range(20):
        draw(photos / "many" / f"{index:02d}.png", index, size=(1200, 900))
    model = write_image_model(tmp_path / "net.onnx")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "freqfusion_runtime.commands.cli",
        "batch",
        model,
        photos,
        "--output",
        out,
        "--workers",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(RUNTIME)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while not (out / "done.jsonl").is_file() or len(lines(out / "done.jsonl")) < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    children = {int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}
    assert children
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = sum(line.endswith("}\n") for line in (out / "done.jsonl").open())
    assert 3 <= before < 27
    while any(_is_alive(pid) for pid in children):
        assert time.monotonic() < end + 10, "a worker outlived its parent"
        time.sleep(0.05)
    for path in out.rglob("*.labels.png"):
        Image.open(path).load()
    status, facts = batch(model, photos, out)
    assert status == 0
    assert facts["skipped"] == before
    assert facts["done"] == 27 - before
    check_labels(model, photos, out, 27)
    assert not list((out / ".freqfusion-batch" / "partial").iterdir())


def test_two_batches_do_not_share_a_folder(tmp_path, model, photos, capsys):
    work = Work(model=str(model), model_sha256="", output=str(tmp_path / "out"))
    with open_ledger(work):
        assert batch(model, photos, tmp_path / "out")[0] == 2
    assert "is being written by another `freqfusion batch`" in capsys.readouterr().err


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_picture_that_kills_its_worker_is_a_failure_like_any_other(tmp_path, model, photos, monkeypatch):
    """The worker's own process is killed, by a stand-in for a decoder that crashes on one file."""
    (photos / "broken.jpg").unlink()
    helper = tmp_path / "site" / "sitecustomize.py"
    helper.parent.mkdir()
    helper.write_text(
        "import os\n"
        "from freqfusion_runtime.batch import labeller\n"
        "original = labeller.content\n"
        "def content(item, max_pixels):\n"
        "    if item.path.endswith('2.png'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return original(item, max_pixels)\n"
        "labeller.content = content\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{helper.parent}{os.pathsep}{RUNTIME}")
    status, facts = batch(model, photos, tmp_path / "out", "--workers", "2")
    assert status == 1
    assert (facts["done"], facts["failed"]) == (6, 1)
    failure = lines(tmp_path / "out" / "failures.jsonl")[0]
    assert failure["input"].endswith("2.png")
    assert "ended its worker process" in failure["error"]
    assert len(lines(tmp_path / "out" / "done.jsonl")) == 6


def test_a_result_that_cannot_be_written_stops_the_batch(tmp_path, model, photos, capsys):
    out = tmp_path / "out"
    (out / "same.png.labels.png").mkdir(parents=True)
    assert batch(model, photos, out)[0] == 2
    assert "same.png.labels.png cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", (), "does not exist"),
        ("empty", (), "no picture found"),
        ("a.csv", (), "is neither a folder nor a .txt"),
        ("a.parquet", (), "is not a Parquet file"),
        ("photos", ("--ray-address", "auto"), "--ray-address is for --engine ray"),
    ],
)
def test_what_cannot_be_started(tmp_path, model, photos, capsys, source, options, message):
    if source == "a.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'freqfusion-deploy[ray]'")
    (tmp_path / "empty").mkdir()
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).write_text("text")
    assert batch(model, tmp_path / source, tmp_path / "out", *options)[0] == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_output_inside_the_input_is_no_input(tmp_path, model, photos):
    (photos / "broken.jpg").unlink()
    assert batch(model, photos, photos / "out", "--overlay")[1]["found"] == 7
    assert batch(model, photos, photos / "out", "--overlay")[1]["found"] == 7


def test_results_never_replace_pictures(tmp_path, model, photos, capsys):
    own = draw(photos / "same.png.labels.png", 9).read_bytes()
    assert batch(model, photos, photos)[0] == 2
    assert "photos is the folder of the pictures, too: results would replace" in capsys.readouterr().err
    listing = photos / "list.txt"
    listing.write_text("same.png\nsame.png.labels.png\n")
    assert batch(model, listing, photos)[0] == 2
    assert "same.png.labels.png is a picture, and the results of" in capsys.readouterr().err
    assert (photos / "same.png.labels.png").read_bytes() == own


def test_keys_tell_rows_apart():
    rows = [Item("/t.parquet", f"t/{row}", 1, 1, row, "image") for row in range(2)]
    assert rows[0].key != rows[1].key


def test_folders_are_read_as_those_of_run_are(tmp_path):
    draw(tmp_path / "deep" / "a.pgm", 1)
    draw(tmp_path / "b.png", 2).rename(tmp_path / "b")
    (tmp_path / "deep" / "c.heic").touch()
    (tmp_path / "README").write_text("none")
    with pytest.warns(UserWarning, match=r"left out for want of a reader: 1 picture, deep/c\.heic\. Convert"):
        found = find_items(tmp_path)
    assert [item.name for item in found.items] == ["b", "deep/a.pgm"]


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "a.png").touch()
    item = find_items(tmp_path).items[0]
    with pytest.raises(freqfusion_runtime.FreqFusionError, match="is empty"):
        content(item)


def test_a_model_that_cannot_be_opened_by_workers(tmp_path, photos):
    work = Work(model=str(tmp_path / "none.onnx"), model_sha256="", output=str(tmp_path))
    with pytest.raises(freqfusion_runtime.FreqFusionError, match="does not exist"):
        list(label_locally(work, find_items(photos).items, 1))


@pytest.mark.long
@needs_ray
def test_on_ray(tmp_path, model, photos):
    out = tmp_path / "out"
    shutil.copy(photos / "same.png", photos / "again.png")
    status, facts = batch(model, photos, out, "--workers", "2")
    assert (status, facts["done"]) == (1, 8)
    kept = lines(out / "done.jsonl")
    for name in ("same.png", "deep/er/3.png"):
        (out / f"{name}.labels.png").unlink()
    report = tmp_path / "ray.json"
    command = [
        sys.executable,
        "-m",
        "freqfusion_runtime.commands.cli",
        "batch",
        model,
        photos,
        "--output",
        out,
        "--json",
        report,
    ]
    command += ["--engine", "ray", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(RUNTIME)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    facts = json.loads(report.read_text())
    assert (facts["engine"], facts["done"], facts["skipped"], facts["failed"]) == ("ray", 2, 6, 1)
    check_labels(model, photos, out, 8)
    redone = lines(out / "done.jsonl")[len(kept) :]
    assert {Path(record["key"]).name for record in redone} == {"same.png", "3.png"}
    first = {record["key"]: record for record in kept}
    assert all(record == first[record["key"]] for record in redone)  # whichever engine made them
