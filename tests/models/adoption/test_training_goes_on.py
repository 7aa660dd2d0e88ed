# SPDX-License-Identifier: Apache-2.0
"""Adopted networks train, are copied, pickled, compiled and distributed like the originals."""

from __future__ import annotations

import copy
import io
import itertools

import freqfusion
import pytest
import torch
import torch.distributed
from embedding_networks import FreqFusion, ListSum, Pair, ReversedListCat, UNet, filled
from torch import Tensor, nn

pytestmark = pytest.mark.numerics

IMAGE = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))


def network(padding: str = "reflect", **options: object) -> nn.Module:
    return filled(Pair(FreqFusion(8, 12, padding=padding, **options)))


def adopted(original: nn.Module) -> nn.Module:
    ours = copy.deepcopy(original)
    freqfusion.adopt(ours)
    return ours


def loss(of: nn.Module, image: Tensor) -> Tensor:
    out = of(image)
    return sum(part.float().square().mean() for part in (out if isinstance(out, tuple) else (out,)))


def gradients(of: nn.Module, image: Tensor) -> dict[str, Tensor]:
    of.zero_grad()
    loss(of, image).backward()
    return {name: parameter.grad for name, parameter in of.named_parameters()}


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("resamples", [False, True])
def test_gradients_are_those_of_the_original(padding, resamples):
    original = network(padding, feature_resample=resamples)
    ours = gradients(adopted(original).train(), IMAGE)
    exact = gradients(copy.deepcopy(original).double(), IMAGE.double())
    assert ours.keys() == exact.keys()
    for name, gradient in ours.items():
        # 1e-4 of the largest: sums over all pixels, in fp32, of what fp32 has rounded before.
        bound = 1e-4 * float(exact[name].abs().max()) + 1e-9
        torch.testing.assert_close(
            gradient.double(), exact[name], rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_gradients_are_those_of_finite_differences(padding):
    fusion = nn.ModuleList([filled(FreqFusion(3, 2, 2, padding=padding).double())]).eval()
    freqfusion.adopt(fusion)
    maps = [torch.randn(1, c, *size, dtype=torch.float64, requires_grad=True) for c, size in ((3, (6, 8)), (2, (3, 4)))]
    weights = [torch.randn_like(part) for part in fusion[0](*maps)]

    def projected(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple((part * own).sum() for part, own in zip(fusion[0](*inputs), weights, strict=True))

    assert torch.autograd.gradcheck(projected, maps, eps=1e-6, atol=1e-5)


def test_gradients_go_through_sizes_that_are_not_double():
    original = filled(Pair(ReversedListCat(8, 12, padding="reflect"), "[lr, hr]"))
    image = IMAGE[:, :, :15, :11]
    ours = gradients(adopted(original), image)
    for name, exact in gradients(copy.deepcopy(original).double(), image.double()).items():
        torch.testing.assert_close(ours[name].double(), exact, rtol=0, atol=1e-4 * float(exact.abs().max()) + 1e-9)


def test_an_optimizer_goes_on_with_the_parameters_it_has():
    ours = network()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    freqfusion.adopt(ours)
    ours.train()
    before = loss(ours, IMAGE)
    for _ in range(3):
        optimizer.zero_grad()
        loss(ours, IMAGE).backward()
        optimizer.step()
    assert loss(ours, IMAGE) < 0.9 * before


def test_frozen_parameters_stay_frozen_and_the_state_dict_stays_the_same():
    original = network(feature_resample=True)
    original.fusion.content_encoder.weight.requires_grad_(False)
    ours = adopted(original)
    assert not ours.fusion.content_encoder.weight.requires_grad
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in original.state_dict().items()
    }
    ours.load_state_dict(original.state_dict(), strict=True)


def test_checkpointing_gives_the_same_gradients():
    ours = adopted(network()).fusion.train()
    maps = [torch.randn(1, 8, 8, 8, requires_grad=True), torch.randn(1, 12, 4, 4, requires_grad=True)]
    with_, without = (
        torch.autograd.grad(sum(part.square().sum() for part in ours(*maps, flag)), maps) for flag in (True, False)
    )
    torch.testing.assert_close(with_, without)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains(dtype):
    original = network()
    ours = adopted(original).train()
    exact = gradients(ours, IMAGE)
    exact = {name: gradient.clone() for name, gradient in exact.items()}
    with torch.autocast("cpu", dtype):
        lossy = loss(ours, IMAGE)
    ours.zero_grad()
    lossy.backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad.isfinite().all()
        difference = (parameter.grad - exact[name]).norm() / (exact[name].norm() + 1e-6)
        assert difference < (0.2 if dtype == torch.bfloat16 else 0.05), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_of_half_types_is_adopted_and_trains(dtype):
    ours = network().to(dtype)
    report = freqfusion.adopt(ours, IMAGE.to(dtype))
    assert report.adopted[0].padding == "reflect"
    assert all(
        gradient.dtype == dtype and gradient.isfinite().all() for gradient in gradients(ours, IMAGE.to(dtype)).values()
    )


def test_torch_compile_gives_the_same():
    ours = filled(Pair(ListSum(8, 8, padding="reflect"), "[hr, lr]", nn.Conv2d(8, 8, 3, stride=2, padding=1)))
    freqfusion.adopt(ours)
    ours.train()
    exact = {name: gradient.clone() for name, gradient in gradients(ours, IMAGE).items()}
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    ours.zero_grad()
    loss(compiled, IMAGE).backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, exact[name], rtol=1e-4, atol=1e-6)


def test_copies_compute_the_same_and_share_nothing():
    ours = adopted(network())
    other = copy.deepcopy(ours)
    torch.testing.assert_close(other(IMAGE), ours(IMAGE), rtol=0, atol=0)
    with torch.no_grad():
        other.fusion.content_encoder.weight.zero_()
    assert ours.fusion.content_encoder.weight.abs().max() > 0
    assert not torch.equal(other(IMAGE)[2], ours(IMAGE)[2])


@pytest.mark.parametrize("resamples", [False, True])
def test_a_network_is_saved_and_loaded_whole(resamples):
    ours = adopted(network(feature_resample=resamples))
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    torch.testing.assert_close(loaded(IMAGE), ours(IMAGE), rtol=0, atol=0)


def test_data_parallel_and_distributed_wrap_it(tmp_path):
    ours = adopted(network())
    exact = {name: gradient.clone() for name, gradient in gradients(ours, IMAGE).items()}
    torch.testing.assert_close(nn.DataParallel(ours)(IMAGE), ours(IMAGE))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(ours)
        ours.zero_grad()
        loss(parallel, IMAGE).backward()
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter.grad, exact[name], rtol=1e-5, atol=1e-7)
    finally:
        torch.distributed.destroy_process_group()


def saved_bytes(of: nn.Module, image: Tensor) -> int:
    """What a forward keeps for the backward, the parameters apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in itertools.chain(of.parameters(), of.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = loss(of, image)
    del result
    return sum(kept.values())


def test_a_training_step_keeps_less_than_half_of_what_unfolded_windows_take():
    original = filled(UNet(8)).train()
    ours = adopted(original.eval()).train()
    image = torch.randn(1, 3, 64, 64)
    assert saved_bytes(ours, image) < 0.5 * saved_bytes(original.train(), image)
