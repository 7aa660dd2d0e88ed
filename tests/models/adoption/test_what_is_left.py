# SPDX-License-Identifier: Apache-2.0
"""What adopt leaves in place and names, what it refuses, and what it goes by where nothing can be run."""

from __future__ import annotations

import warnings

import freqfusion
import pytest
import torch
from embedding_networks import FreqFusion, ListSum, Pair, Trimmed, carafe_of_a_gpu, filled
from freqfusion import AdoptionError, adopt
from torch import Tensor, nn

IMAGE = torch.randn(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))
ON_GPU_ONLY = {"carafe": carafe_of_a_gpu}


def left_with(network: nn.Module, words: str, example_inputs: object = None, **said: str) -> None:
    """Holds that the fusion stays as it is and is named with ``words``, in a warning and in the report."""
    before = network.fusion
    with pytest.warns(UserWarning, match=f"adopt left 1 of 1 modules in place: fusion .*{words}"):
        report = adopt(network, example_inputs, **said)
    assert network.fusion is before
    assert report.adopted == ()
    assert f"left: fusion, a {type(before).__name__}, " in str(report)


class TimeConditioned(FreqFusion):
    def __init__(self) -> None:
        super().__init__(8, 12)
        self.time_mlp = nn.Linear(4, 12)

    def forward(self, hr_feat: Tensor, lr_feat: Tensor, time: Tensor) -> object:
        return super().forward(hr_feat, lr_feat + self.time_mlp(time)[:, :, None, None])


class FurtherInput(FreqFusion):
    def forward(self, hr_feat: Tensor, lr_feat: Tensor, gain: Tensor) -> object:
        return super().forward(hr_feat * gain.mean(), lr_feat)


class GivenMore(Pair):
    """Calls its fusion with a third tensor."""

    def forward(self, image: Tensor) -> object:
        hr = self.stem(image)
        return self.fusion(hr, self.down(hr), torch.ones(1, 4))


class Blurring(FreqFusion):
    """Of the right names and shapes, and of another arithmetic."""

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> object:
        taps, hr, lr = super().forward(hr_feat, lr_feat)
        return taps, hr, nn.functional.avg_pool2d(lr, 3, 1, 1)


def unrelated() -> nn.Module:
    """A class of that name that is something else."""
    layers = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1))
    called = type("FreqFusion", (nn.Module,), {"forward": lambda self, hr, lr: self.layers(hr)})
    module = called()
    module.layers = layers
    return module


def test_a_class_called_freqfusion_that_is_none_is_left():
    network = filled(nn.ModuleDict({"fusion": unrelated(), "other": FreqFusion(8, 12)}))
    with pytest.warns(UserWarning, match=r"fusion is of a class called FreqFusion but none .* layers.0.weight"):
        report = adopt(network)
    assert [module.paths for module in report.adopted] == [("other",)]
    assert report.left[0].paths == ("fusion",)


def test_one_whose_parameters_are_further_is_left():
    left_with(filled(GivenMore(TimeConditioned())), "has further parameters, time_mlp.weight, time_mlp.bias", IMAGE)


def test_one_that_is_called_with_more_is_left():
    left_with(
        filled(GivenMore(FurtherInput(8, 12))),
        "is called with 3 arguments, tensors of 1 x 8 x 24 x 20, 1 x 12 x 12 x 10, 1 x 4, which no reading of it takes",
        IMAGE,
    )


def test_one_that_computes_something_else_is_left():
    words = r"computes something else than its parameters' names say: the nearest .* off by \d\.\d+ standard deviations"
    left_with(filled(Pair(Blurring(8, 12))), words, IMAGE)


def changed(change: object) -> nn.Module:
    network = Pair(FreqFusion(8, 12))
    change(network.fusion)
    return filled(network)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: setattr(f, "up_group", 2), "has up_group 2, expected 1"),
        (lambda f: setattr(f, "content_encoder", nn.Conv2d(16, 24, 3, padding=1)), "content_encoder of 24 outputs"),
        (lambda f: setattr(f, "content_encoder", nn.Conv2d(16, 25, 3)), "expected an odd square kernel that keeps"),
        (lambda f: setattr(f, "content_encoder2", nn.Conv2d(8, 9, 1)), "content_encoder2 of 8 channels, expected 16"),
        (
            lambda f: setattr(f, "content_encoder2", nn.Linear(8, 9)),
            r"for a content_encoder2 a Linear\(.*expected a conv",
        ),
        (lambda f: setattr(f, "hr_channel_compressor", nn.Conv2d(8, 16, 3)), "expected a 1 x 1 convolution"),
        (lambda f: setattr(f, "lr_channel_compressor", nn.Conv2d(12, 8, 1)), "to 16 and 8 channels, expected one"),
        (
            lambda f: f.register_buffer("hamming_lowpass", torch.ones(9)),
            "hamming_lowpass of 9 factors, expected 1 or 25",
        ),
        (lambda f: f.register_forward_hook(lambda *_: None), "has hooks, .*register them again"),
        (lambda f: setattr(f, "forward", lambda *_: None), "has a forward that was put on the object"),
    ],
)
def test_a_module_that_does_not_fit_is_left_with_the_reason(change, words):
    left_with(changed(change), words)


def test_a_compiled_module_is_left():
    network = filled(Pair(FreqFusion(8, 12)))
    maps = (torch.randn(1, 8, 12, 12), torch.randn(1, 12, 6, 6))
    with warnings.catch_warnings(action="ignore"):
        network.fusion = torch.jit.trace(network.fusion, maps, check_trace=False)
    left_with(network, "is compiled by torch.jit, which hides its code", IMAGE)


def test_without_a_run_the_padding_is_not_guessed():
    words = r"does not run here \(NotImplementedError: carafe_forward_impl.*say padding='zeros'"
    left_with(filled(Pair(FreqFusion(8, 12, **ON_GPU_ONLY))), words, IMAGE)
    left_with(filled(Pair(FreqFusion(8, 12, **ON_GPU_ONLY))), words)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_without_a_run_the_users_word_counts_and_the_report_says_so(padding):
    network = filled(Pair(FreqFusion(8, 12, **ON_GPU_ONLY)))
    expected = filled(Pair(FreqFusion(8, 12, padding=padding)))(IMAGE)
    report = adopt(network, IMAGE, padding=padding)
    assert "not run here" in str(report)
    assert "fusion: not proven" in str(report)
    assert report.network_error is None
    for ours, theirs in zip(network(IMAGE), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_without_a_run_a_form_that_cannot_be_read_is_asked_for():
    network = filled(Pair(ListSum(8, 8, **ON_GPU_ONLY), "[hr, lr]", nn.Conv2d(8, 8, 3, stride=2, padding=1)))
    left_with(network, "does not run here .* how it is called: say, for example, form=", padding="zeros")
    report = adopt(network, padding="zeros", form="[hr, lr] -> hr + lr")
    assert report.adopted[0].form == "[hr, lr] -> hr + lr"
    assert network(IMAGE).shape == (1, 8, 24, 20)


def test_without_a_run_options_that_are_nowhere_said_are_asked_for():
    network = filled(Pair(Trimmed(8, 12, **ON_GPU_ONLY)))
    words = "does not run here .* does not say its semi_conv, comp_feat_upsample, hr_residual: adopt where it runs"
    left_with(network, words, padding="zeros", form="hr, lr -> (hr, lr)")


def test_where_either_padding_gives_the_same_the_users_word_is_asked_for():
    network = filled(Pair(FreqFusion(8, 12, kernels=(1, 1))))
    left_with(network, "computes the same with either padding on these inputs: say padding='zeros'", IMAGE)
    assert adopt(network, IMAGE, padding="reflect").adopted[0].padding == "reflect"


def test_the_users_word_comes_before_what_this_machine_computes():
    network = filled(Pair(FreqFusion(8, 12, padding="reflect")))
    expected = filled(Pair(FreqFusion(8, 12, padding="zeros")))(IMAGE)
    report = adopt(network, IMAGE, padding="zeros")
    assert report.adopted[0].padding == "zeros"
    assert "pads with zeros as you say; on this machine it computes with reflect" in str(report)
    for ours, theirs in zip(network(IMAGE), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_reflects_here_may_have_been_trained_with_zeros():
    network = filled(Pair(FreqFusion(8, 12, padding="reflect")))
    assert "only where mmcv is missing, so say padding='zeros'" in str(adopt(network, IMAGE))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fusion = FreqFusion(3, 3)

    def forward(self, image: Tensor, depth: Tensor) -> object:
        return self.fusion(image, depth)


class Noisy(Pair):
    """Gives another answer at every run."""

    def forward(self, image: Tensor) -> object:
        taps, hr, lr = super().forward(image)
        return taps, hr + torch.rand_like(hr), lr


class WithNormalizer(FreqFusion):
    kernel_normalizer = None


class Reaching(Pair):
    """Uses what only the original has."""

    def forward(self, image: Tensor) -> object:
        assert self.fusion.kernel_normalizer is None
        return super().forward(image)


def in_training() -> nn.Module:
    network = filled(Pair(FreqFusion(8, 12)))
    network.stem.train()
    return network


@pytest.mark.parametrize(
    ("make", "inputs", "message"),
    [
        (lambda: "unet", None, r"network must be a torch.nn.Module, got str"),
        (in_training, None, r"stem is in training mode, expected evaluation mode: call network.eval\(\) first"),
        (lambda: torch.jit.script(nn.Conv2d(3, 3, 1)), None, "compiled by torch.jit"),
        (lambda: Pair(FreqFusion(8, 12)).eval().to("meta"), None, "stem.weight is on the meta device"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)).eval(), None, "none of the network's 2 modules is a FreqFusion"),
        (lambda: nn.ModuleList([freqfusion.FreqFusion(8, 8)]).eval(), None, "is ours already"),
        (lambda: filled(FreqFusion(8, 12)), None, "the network itself is a FreqFusion.*ModuleList"),
        (
            lambda: filled(TwoInputs()),
            IMAGE,
            r"do not fit TwoInputs.forward\(image.*: missing a required argument: 'depth'",
        ),
        (lambda: filled(TwoInputs()), (IMAGE,) * 3, "do not fit TwoInputs.forward.*too many positional"),
        (lambda: filled(TwoInputs()), {"image": IMAGE, "dept": IMAGE}, "do not fit TwoInputs.forward"),
        (lambda: filled(Pair(FreqFusion(8, 12))), 24, "must be a tensor, a tuple of arguments or a dict.*got int"),
        (lambda: filled(Pair(FreqFusion(8, 12))), IMAGE.numpy(), "example input image is a numpy array"),
        (lambda: filled(Pair(FreqFusion(8, 12))), IMAGE.to("meta"), "image lies on meta, the network on cpu"),
        (
            lambda: filled(Pair(FreqFusion(8, 12))),
            torch.randn(1, 4, 8, 8),
            "does not run on example_inputs: RuntimeError",
        ),
        (lambda: filled(Pair(FreqFusion(8, 12))), IMAGE.long(), "does not run on example_inputs: RuntimeError"),
        (
            lambda: filled(Noisy(FreqFusion(8, 12))),
            IMAGE,
            "standard deviations from what it gave before.*random numbers",
        ),
    ],
)
def test_says_what_is_wrong(make, inputs, message):
    with pytest.raises(AdoptionError, match=message):
        adopt(make(), inputs)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"padding": "mirror"}, "padding must be one of zeros, reflect, got 'mirror'"),
        ({"form": "hr, lr"}, "form must be one of 'hr, lr', .*then '->', then one of .* got 'hr, lr'"),
    ],
)
def test_a_word_that_is_none_is_refused(said, message):
    with pytest.raises(AdoptionError, match=message):
        adopt(filled(Pair(FreqFusion(8, 12))), **said)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noisy(FreqFusion(8, 12)), "standard deviations from what it gave before"),
        (
            lambda: Reaching(WithNormalizer(8, 12)),
            "does not run with its modules replaced: AttributeError: .*reach into fusion",
        ),
    ],
)
def test_a_network_that_is_refused_is_as_it_was(make, message):
    network = filled(make())
    before = network.fusion
    with pytest.raises(AdoptionError, match=message):
        adopt(network, IMAGE)
    assert network.fusion is before


def test_example_inputs_may_be_named():
    network = filled(TwoInputs())
    report = adopt(network, {"depth": IMAGE[:, :, ::2, ::2], "image": IMAGE})
    assert report.network_error < 1e-4


def test_what_frameworks_hang_on_a_module_stays_there():
    network = filled(Pair(FreqFusion(8, 12)))
    network.fusion.f, network.fusion.i = [-1, 6], 12
    adopt(network)
    assert (network.fusion.f, network.fusion.i) == ([-1, 6], 12)


def test_a_call_of_another_form_is_refused():
    network = filled(Pair(FreqFusion(8, 12)))
    adopt(network)
    hr, lr = torch.randn(1, 8, 8, 8), torch.randn(1, 12, 4, 4)
    with pytest.raises(ValueError, match="was adopted as one that is called with hr, lr, got 1 maps"):
        network.fusion([hr, lr])
    assert len(network.fusion(hr_feat=hr, lr_feat=lr)) == 3
