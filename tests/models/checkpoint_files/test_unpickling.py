# SPDX-License-Identifier: Apache-2.0
"""Files with weights: all that torch's safe loader reads is read, every other object is inert, and nothing runs."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import io
import itertools
import logging
import operator
import os
import pathlib
import pickle
import random
import re
import sys
import tempfile
import types
import uuid
import warnings
import zipfile

import numpy as np
import pytest
import torch
from freqfusion import read_checkpoint
from freqfusion.checkpoint_files.formats import read_content
from freqfusion.checkpoint_files.placeholders import Inert
from freqfusion.checkpoint_files.plain_data import Storage, construct, find_global
from freqfusion.checkpoint_files.unpickling import unpickle
from freqfusion.errors import CheckpointError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2)}
PLAIN = [
    dtype
    for name, dtype in vars(torch).items()
    if isinstance(dtype, torch.dtype) and name == str(dtype)[6:] and not re.fullmatch(r"(u?int[1-7]|qu?int.*)", name)
]
KINDS = ("zip", "legacy", "pickle")


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Record:
    value: int = 1


class Outer:
    class Inner(dict):
        pass

    def method(self):
        pass


class Named(dict):
    pass


class Keywords:
    def __new__(cls, *, value):
        return object.__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"value": 1}


Point = collections.namedtuple("Point", "x y")

OBJECTS = [
    *(Color.RED, Record(), Outer(), Outer.Inner(a=1), Outer().method, Outer.Inner, Named(a=1), Keywords(value=1)),
    *(Point(1, 2), frozenset([Point(1, 2)]), {Record: 1}, {Color.RED: 2}, collections.deque([1], maxlen=3)),
    *(collections.defaultdict(list, a=[1]), collections.ChainMap({1: 2}), collections.Counter("ab"), range(5)),
    *(slice(1, 2), datetime.datetime(2024, 1, 2), datetime.timezone.utc, argparse.Namespace(a=1), decimal.Decimal(1)),
    *(functools.partial(int, base=2), uuid.UUID(int=3), re.compile("a"), pathlib.Path("x"), os.stat(".")),
    *(random.Random(0), itertools.count(3), operator.attrgetter("a"), logging.getLogger("x"), KeyError("a")),
    *(int, dict, len, getattr, print, type(None), Ellipsis, types.SimpleNamespace(a=1), bytearray(), set(), b"", 1j),
    *(np.random.RandomState(0), np.random.default_rng(1), np.float32(2), np.array(["a"]), np.datetime64("2020-01-01")),
    *(np.array([object(), None], dtype=object), np.ma.array([1, 2], mask=[0, 1]), np.dtype("f4"), np.sum),
    *(np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), torch.nn.Linear(2, 2), torch.nn.init.zeros_),
    *(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), torch.Generator(), torch.storage.UntypedStorage(3)),
    *(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), torch.distributions.Normal(0.0, 1.0)),
]


def save(content, path, kind, protocol=2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "pickle":
            path.write_bytes(pickle.dumps(content, protocol=protocol))
        else:
            torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")


def places(thing):
    yield from ({"state_dict": WEIGHTS, "x": thing}, {"x": thing, "state_dict": WEIGHTS})
    yield from ({"state_dict": WEIGHTS, "meta": {"x": thing}}, {"state_dict": WEIGHTS, "x": [thing, (thing, [thing])]})
    yield {"state_dict": WEIGHTS, "optimizer": {"state": {0: {"x": thing}}}}
    if not isinstance(thing, np.ndarray):
        yield {"state_dict": {**WEIGHTS, "x": thing}}
    if isinstance(thing, collections.abc.Hashable):
        try:
            yield from ({"state_dict": WEIGHTS, "x": {thing: 1, (thing, 1): 2}}, {"state_dict": WEIGHTS, "x": {thing}})
        except TypeError:  # a tuple of something that is not hashable
            return


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: type(thing).__name__)
def test_objects_of_any_library_lie_inert_in_every_place(tmp_path, thing):
    path = tmp_path / "weights.bin"
    saved = 0
    for content, kind, protocol in itertools.product(places(thing), KINDS, (2, 5)):
        try:
            save(content, path, kind, protocol)
        except (TypeError, AttributeError, pickle.PicklingError, RuntimeError):
            continue  # this object has no pickle there
        saved += 1
        found = read_checkpoint(path).state_dict
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())
    assert saved


def test_nothing_of_an_object_is_imported(tmp_path, monkeypatch):
    save({"state_dict": WEIGHTS, "x": [Record(), Color.RED, Outer.Inner(a=1)]}, tmp_path / "weights.pth", "zip")
    module = types.ModuleType(__name__)
    module.__getattr__ = lambda name: pytest.fail(f"{name} was looked up")
    monkeypatch.setitem(sys.modules, __name__, module)
    found = read_content(tmp_path / "weights.pth")["x"]
    assert all(isinstance(thing, Inert) for thing in found)


def assert_same(actual, expected):
    """As torch's loader gives it: types, values, strides; a parameter may be the tensor it is made of."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(actual, torch.Tensor)
        assert (actual.dtype, actual.shape, actual.layout) == (expected.dtype, expected.shape, expected.layout)
        if not expected.is_meta:
            assert torch.equal(raw(actual), raw(expected))
    elif isinstance(expected, dict):
        assert type(actual) is type(expected)
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, list | tuple):
        assert type(actual) is type(expected)
        assert len(actual) == len(expected)
        for pair in zip(actual, expected, strict=True):
            assert_same(*pair)
    else:
        assert actual == expected


def raw(tensor):
    tensor = tensor.detach()
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    tensor = tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return tensor.reshape(-1, 1).view(torch.uint8)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", PLAIN, ids=str)
def test_tensors_of_every_type_are_read_as_torch_reads_them(tmp_path, dtype, legacy):
    values = torch.arange(64, dtype=torch.uint8).reshape(4, 16)
    tensor = (values % 2).view(torch.bool) if dtype == torch.bool else values.view(dtype)
    torch.save({"all": tensor, "part": tensor[1:]}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    try:
        expected = torch.load(tmp_path / "x.pth", weights_only=True)
    except AttributeError:  # torch's own loader cannot read its newer types from old files
        assert legacy
        expected = {"all": tensor, "part": tensor[1:]}
    assert_same(read_content(tmp_path / "x.pth"), expected)


BASE = torch.arange(24.0).reshape(4, 6)
NOTED = torch.nn.Parameter(BASE)
NOTED.note = "x"
TENSORS = {
    "sparse": torch.eye(3).to_sparse(),
    "csr": torch.eye(3).to_sparse_csr(),
    "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
    "quantized": torch.quantize_per_tensor(BASE, 0.1, 3, torch.quint8),
    "by channel": torch.quantize_per_channel(BASE, torch.rand(4), torch.zeros(4, dtype=torch.long), 0, torch.qint8),
    "qint32": torch.quantize_per_tensor(BASE, 0.1, 3, torch.qint32),
    "meta": torch.empty(3, device="meta"),
    "parameter": torch.nn.Parameter(BASE),
    "with attribute": NOTED,
    "buffer": torch.nn.Buffer(BASE),
    "transposed": BASE.t(),
    "strided": BASE[1:, ::2],
    "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "negative": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "scalar": torch.tensor(3.0),
    "empty": torch.empty(0, 3),
    "expanded": torch.ones(1).expand(5),
    "channels last": torch.rand(1, 2, 3, 4).to(memory_format=torch.channels_last),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_every_kind_are_read_as_torch_reads_them(tmp_path, name, protocol, legacy):
    save({"x": TENSORS[name], "base": BASE}, tmp_path / "x.pth", "legacy" if legacy else "zip", protocol)
    expected = torch.load(tmp_path / "x.pth", weights_only=protocol == 2)
    assert_same(read_content(tmp_path / "x.pth"), expected)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.sampled_from([torch.float16, torch.int16, torch.float8_e4m3fn, torch.Size([2, 3]), torch.device("cuda:1")])
    | st.sampled_from([torch.sparse_coo, torch.per_tensor_affine, BASE, BASE[:, 1], torch.tensor(2)])
    | st.sets(st.integers(), max_size=3)
    | st.binary(max_size=5).map(bytearray)
    | st.binary(min_size=70_000, max_size=70_001)
    | st.text(min_size=3).map(collections.Counter)
)
KEYS = st.text() | st.integers() | st.tuples(st.text(), st.integers())
CONTENTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4).map(collections.OrderedDict)
    ),
    max_leaves=12,
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=CONTENTS, legacy=st.booleans())
def test_whatever_torchs_safe_loader_reads_is_read_alike(content, legacy):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    file.seek(0)
    try:
        expected = torch.load(file, weights_only=True)
    except pickle.UnpicklingError:  # for want of an empty bytes
        expected = content
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "content"
        path.write_bytes(file.getvalue())
        assert_same(read_content(path), expected)


@settings(max_examples=200, deadline=None)
@given(noise=st.binary(max_size=50), at=st.integers(0, 400))
def test_damaged_pickles_end_in_one_kind_of_error(noise, at):
    good = pickle.dumps({"state_dict": {"a": np.zeros(3)}, "x": [Record(), (1, 2), {"a": {1}}]}, protocol=4)
    at %= len(good)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "damaged"
        path.write_bytes(good[:at] + noise + good[at + len(noise) :])
        with contextlib.suppress(CheckpointError):
            read_checkpoint(path)


class Scripted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".safetensors", ".bin", ""])
def test_torchscript_archives_are_refused_by_content_before_anything_loads_them(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"scripted{suffix}"
    torch.jit.script(Scripted()).save(path)
    for module, function in ((torch.jit, "load"), (torch, "load")):
        monkeypatch.setattr(module, function, lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(CheckpointError, match=r"is a TorchScript archive, and reading one runs code.*Nothing was run"):
        read_checkpoint(path)


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (torch.Tensor, (1 << 33,)),
        (torch.FloatTensor, (1 << 33,)),
        (torch.zeros, (1 << 33,)),
        (bytearray, (1 << 35,)),
        (bytes, (1 << 35,)),
        (np.ndarray, ((1 << 33,),)),
        (np.zeros, (1 << 33,)),
        (
            np.core.multiarray._reconstruct if np.__version__ < "2" else np._core.multiarray._reconstruct,
            (np.ndarray, (1 << 33,), b"b"),
        ),
        (torch.UntypedStorage, (1 << 35,)),
        (range, (1 << 60,)),
    ],
)
def test_a_sized_constructor_reserves_nothing(tmp_path, function, arguments):
    resource = pytest.importorskip("resource")
    path = tmp_path / "sized.pkl"
    path.write_bytes(pickle.dumps({"state_dict": {"a": np.ones(3)}, "x": Calls(function, *arguments)}))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        assert read_checkpoint(path).state_dict["a"].sum() == 3
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_texts_without_a_character_reserve_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "texts.pkl"
    for kind in ("S0", "U0", "V0"):
        empty = pickle.dumps({"state_dict": {"a": np.ones(3)}, "meta": {"CLASSES": np.zeros(0, "f4")}}, protocol=2)
        # The shape and the type of the empty array, as numpy writes them.
        path.write_bytes(empty.replace(b"K\x00\x85", b"\x8a\x05\x00\x00\x00\x00\x02\x85").replace(b"f4", kind.encode()))
        limits = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as status:
            now = int(status.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), limits[1]))
        try:
            assert read_checkpoint(path).state_dict["a"].sum() == 3
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_quantised_tensor_is_no_larger_than_its_storage(monkeypatch):
    monkeypatch.setattr(torch._utils, "_rebuild_qtensor", lambda *_: pytest.fail("it was rebuilt"))
    rebuild = find_global("torch._utils", "_rebuild_qtensor")
    one = Storage(torch.zeros(1, dtype=torch.uint8), torch.quint8)
    message = r"a quantised tensor of size \(8589934592,\) has more elements than its storage of 1 bytes"
    with pytest.raises(CheckpointError, match=message):
        construct(rebuild, (one, 0, (1 << 33,), (0,), (torch.per_tensor_affine, 0.1, 3), False, {}))


def test_a_device_tensor_shares_what_it_was_copied_to():
    base = torch.ones(3)
    again = [construct(find_global("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"),
                       (base, torch.float64, "xla:0", False)) for _ in range(3)]  # fmt: skip
    assert {tensor.data_ptr() for tensor in again} == {base.data_ptr()}


def test_an_array_of_many_names_is_copied_once():
    array = np.arange(1000, dtype=">f8")
    found = unpickle(io.BytesIO(pickle.dumps([array] * 50)))
    assert len({tensor.data_ptr() for tensor in (entry.tensor() for entry in found)}) == 1


def tampered(path, change):
    """Rewrites the pickle of a ``torch.save`` archive."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def test_a_tensor_must_lie_in_its_storage(tmp_path):
    path = tmp_path / "beyond.pth"
    torch.save({"a": torch.zeros(77)}, path)
    tampered(
        path,
        lambda data: data.replace(b"(K\x00K\x4d\x85", b"(K\x00K\x4e\x85").replace(b"K\x00K\x4d\x85", b"K\x00K\x4e\x85"),
    )
    with pytest.raises(CheckpointError, match=r"a tensor of size \(78,\).* does not lie in its storage of 308 bytes"):
        read_checkpoint(path)
    torch.save({"a": torch.zeros(77)}, path)
    tampered(path, lambda data: data.replace(b"K\x4dtq", b"K\x4etq"))
    with pytest.raises(CheckpointError, match="storage 0 must have 312 bytes, and has 308"):
        read_checkpoint(path)


def test_keys_that_would_take_for_ever_to_hash_are_replaced():
    def nested(levels):
        yield b"\x80\x04}("
        yield b")" + b"\x94" + b"2\x86" * levels  # each level holds the one before twice
        yield b"K\x01u."

    found = unpickle(io.BytesIO(b"".join(nested(60))))
    assert [type(key) for key in found] == [Inert]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_protocol_and_byte_order(protocol, order):
    arrays = {
        "a": np.asarray(np.arange(30000, dtype="f4").reshape(100, 300), order=order),
        "big": np.arange(5, dtype=">f8"),
        "half": np.ones((2, 3), "f2"),
        "empty": np.empty((0, 3), "f4"),
        "scalar": np.array(2.5),
    }
    found = unpickle(io.BytesIO(pickle.dumps(arrays, protocol=protocol)))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].values(), array)
        assert found[name].tensor().shape == array.shape


def test_tensors_in_plain_pickles(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": WEIGHTS, "__author__": "somebody"}))
    found = read_checkpoint(tmp_path / "x.pkl").state_dict
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


def test_buffers_outside_a_pickle_are_named(tmp_path):
    data = pickle.dumps({"a": np.ones(3)}, protocol=5, buffer_callback=lambda _: None)
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(CheckpointError, match="arrays lie outside the file, in buffers; save it without"):
        read_checkpoint(tmp_path / "x.pkl")


@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, os.execv, open])
def test_functions_that_run_commands_are_refused_by_name(tmp_path, function):
    path = tmp_path / "hostile.pth"
    torch.save({"state_dict": WEIGHTS, "x": Calls(function, f"touch {tmp_path}/ran")}, path)
    with pytest.raises(CheckpointError, match=r"asks for \w+\.\w+, which is not plain data. Nothing was run"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
