# SPDX-License-Identifier: Apache-2.0
import importlib
import inspect
import json
import os
import subprocess
import sys
import types

import pytest
from freqfusion_runtime.commands import cli
from freqfusion_runtime.commands.json_output import printer, write_json
from freqfusion_runtime.errors import FreqFusionError

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "PIL", "onnx_ir", "onnxscript", "openvino", "tensorrt")


@pytest.fixture
def command(monkeypatch):
    """Puts a module into the table as ``probe``; the test sets what its ``execute`` does."""
    module = types.ModuleType("probe_command", "Probe the table.\n\nIn two paragraphs.")
    module.add_arguments = lambda parser: parser.add_argument("--size", type=int, default=512, help="side")
    module.execute = lambda args: 0
    monkeypatch.setitem(sys.modules, "probe_command", module)
    monkeypatch.setattr(cli, "COMMANDS", {"probe": "probe_command", "run": cli.COMMANDS["run"]})
    return module


def test_every_command_is_a_module_with_a_docstring_and_two_functions():
    for name, path in cli.COMMANDS.items():
        module = importlib.import_module(path)
        assert module.__doc__, name
        assert list(inspect.signature(module.add_arguments).parameters) == ["parser"], name
        assert list(inspect.signature(module.execute).parameters) == ["args"], name


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from freqfusion_runtime.commands.cli import main; status = main(['--help']); "
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]; "
        "print(heavy, file=sys.stderr); sys.exit(status)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    for name in cli.COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_overview_shows_the_first_line_of_each_docstring(command, capsys):
    assert cli.main(["--help"]) == 0
    assert "  probe  Probe the table.\n  run    Segment pictures" in capsys.readouterr().out
    assert cli.main([]) == 2


def test_a_commands_help_is_its_docstring_with_the_defaults(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "In two paragraphs." in text
    assert "side (default: 512)" in text


def test_exit_status_is_the_commands(command):
    command.execute = lambda args: args.size
    assert cli.main(["probe", "--size", "1"]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rum", "freqfusion: there is no command 'rum'. Did you mean 'run'?\n"),
        ("xyzzy", "freqfusion: there is no command 'xyzzy'. Choose one of: probe, run.\n"),
    ],
)
def test_an_unknown_command_is_answered_in_one_line(command, capsys, name, message):
    assert cli.main([name]) == 2
    assert capsys.readouterr().err == message


def test_an_error_of_ours_is_one_line_and_status_2(command, capsys):
    def fail(args):
        raise FreqFusionError("net.onnx is empty.\n  Write it again.")

    command.execute = fail
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "freqfusion probe: net.onnx is empty. Write it again.\n"


def test_the_errors_of_the_other_packages_count_as_ours(command, capsys):
    class FreqFusionError(Exception):  # as freqfusion.errors has it; the two packages do not import each other
        pass

    def fail(args):
        raise type("CheckpointError", (FreqFusionError,), {})("a.pth is truncated.")

    command.execute = fail
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "freqfusion probe: a.pth is truncated.\n"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nTrace")],
)
def test_memory_that_runs_out_is_no_traceback(command, capsys, error):
    def fail(args):
        raise error

    command.execute = fail
    assert cli.main(["probe"]) == 2
    reason = str(error).splitlines()[0] if str(error) else "MemoryError"
    assert capsys.readouterr().err.startswith(f"freqfusion probe: ran out of memory ({reason}). Give it smaller")


def test_a_bug_is_not_hidden(command):
    def fail(args):
        raise ZeroDivisionError

    command.execute = fail
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


@pytest.mark.parametrize(("package", "extra"), [("torch", "export"), ("onnxruntime", "cpu"), ("tensorrt", "gpu")])
def test_a_missing_package_is_answered_with_the_extra_that_brings_it(command, capsys, package, extra):
    def fail(args):
        raise ModuleNotFoundError(f"No module named '{package}.nn'", name=f"{package}.nn")

    command.execute = fail
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == (
        f"freqfusion probe: {package} is not installed. Install it with: pip install 'freqfusion-deploy[{extra}]'.\n"
    )


def test_a_missing_module_of_our_own_is_a_bug(command):
    command.execute = lambda args: importlib.import_module("freqfusion_runtime.nonsense")
    with pytest.raises(ModuleNotFoundError, match="nonsense"):
        cli.main(["probe"])


def test_an_interrupt_is_no_traceback(command, capsys):
    def stop(args):
        raise KeyboardInterrupt

    command.execute = stop
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == "\nfreqfusion probe: interrupted; files already written are whole\n"


def test_version_names_the_release(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("freqfusion ")


def test_json_goes_to_a_file_or_alone_to_standard_output(tmp_path, capsys):
    write_json(tmp_path / "a.json", {"p50_ms": 1.5, "versions": {"extra": "1"}})
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["p50_ms"] == 1.5
    assert {"python", "numpy", "extra"} <= set(record["versions"])
    printer("-")("a table")
    write_json("-", {"p50_ms": 1.5})
    out, err = capsys.readouterr()
    assert json.loads(out)["p50_ms"] == 1.5
    assert err == "a table\n"
    printer(None)("a table")
    write_json(None, {})
    assert capsys.readouterr().out == "a table\n"
