"""The nine published networks are counted in tests/papers; here: the family, its shapes, its limits."""

import re

import pytest
import torch
from torch import nn

from thriftnet import recipe as recipes
from thriftnet.config import ModelConfig
from thriftnet.errors import BudgetError, RecipeError
from thriftnet.models.blocks import SqueezeExcitation
from thriftnet.models.build import build_model, build_on_meta, check_recipe_network, count_parameters


def config(**values: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {"stem": {"width": 8}, "widths": [8, 16], "blocks": [1, 1], "strides": [1, 2]} | values
    )


RESNEXT = {"block": "resnext", "widths": None, "cardinality": 4, "base_width": 2}
RESNET9 = ModelConfig.model_validate(
    {"family": "resnet9", "stem": {"width": 8}, "widths": [8, 16, 24], "conv_bias": True, "dropout": 0.2}
)


@pytest.mark.parametrize("side", [16, 32, 37, 256])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "model",
    [
        config(),
        config(block="preactivation", stochastic_depth=0.2),
        config(block="bottleneck"),
        config(**RESNEXT),
        config(activation="silu", se_reduction=4),
        config(stem={"kind": "whitening", "kernel": 2}),
        RESNET9,
    ],
    ids=["basic", "preactivation", "bottleneck", "resnext", "squeeze-excitation", "whitening", "resnet9"],
)
def test_any_side_channels_and_classes(model: ModelConfig, channels: int, side: int) -> None:
    network = build_on_meta(model, channels, num_classes=7)
    assert network(torch.empty(2, channels, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_trains_one_step_in_float32(name: str) -> None:
    model = recipes.load(name).model
    network = build_on_meta(model)
    loss = network(torch.empty(2, 3, 32, 32, device="meta")).sum()
    loss.backward()
    assert all((parameter.grad is not None) is parameter.requires_grad for parameter in network.parameters())


def test_bottleneck_parameters_by_hand() -> None:
    # stem 3*8*9 + 2*8; block 8->8: 8*8 + 16 + 8*8*9 + 16 + 8*32 + 64, shortcut 8*32 + 64; linear 32*10 + 10
    model = config(block="bottleneck", widths=[8], blocks=[1], strides=[1])
    assert count_parameters(model) == (216 + 16) + (64 + 16 + 576 + 16 + 256 + 64) + (256 + 64) + 330


def test_grouped_convolution_has_cardinality_groups_and_doubling_width() -> None:
    network = build_on_meta(config(**RESNEXT))
    grouped = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [(m.groups, m.in_channels) for m in grouped] == [(4, 8), (4, 16)]


def test_squeeze_excitation_gates_each_channel() -> None:
    block = SqueezeExcitation(4, reduction=2, activation=torch.relu)
    nn.init.zeros_(block.expand.weight)
    with torch.no_grad():
        block.expand.bias.copy_(torch.tensor([-100.0, 0.0, 100.0, 0.0]))
    x = torch.rand(2, 4, 3, 3)
    expected = x * torch.tensor([0.0, 0.5, 1.0, 0.5])[None, :, None, None]
    torch.testing.assert_close(block(x), expected)


def test_resnet9_adaptive_pooling_equals_the_published_4x4_pooling_at_32_pixels() -> None:
    network = build_model(RESNET9).eval()
    x = torch.randn(2, 3, 32, 32)
    features = network.features(x)
    assert features.shape[2:] == (4, 4)
    torch.testing.assert_close(network.linear(torch.max_pool2d(features, 4).flatten(1)), network(x))


@pytest.mark.parametrize(("scheme", "fan"), [("kaiming_fan_out", 64 * 9), ("kaiming_fan_in", 32 * 9)])
def test_kaiming_standard_deviation(scheme: str, fan: int) -> None:
    torch.manual_seed(0)
    network = build_model(config(stem={"width": 32}, widths=[64], blocks=[1], strides=[1], init=scheme))
    measured = network.stages[0][0].conv1.weight.std().item()
    assert measured == pytest.approx((2 / fan) ** 0.5, rel=0.02)  # 18,432 weights: standard error 0.5 %


def test_identity_shortcut_where_the_shape_stays() -> None:
    network = build_on_meta(config(blocks=[2, 2]))
    shortcuts = [block.shortcut is not None for stage in network.stages for block in stage]
    assert shortcuts == [False, False, True, False]


def test_dropout_only_acts_in_training() -> None:
    network = build_model(config(dropout=0.5))
    x = torch.randn(4, 3, 16, 16)
    network.eval()
    torch.testing.assert_close(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_over_budget_says_count_excess_and_what_to_change() -> None:
    model = config(parameter_budget=1000)
    count = count_parameters(model)
    with pytest.raises(
        BudgetError, match=rf"{count:,} trainable parameters, {count - 1000:,} over the budget of 1,000"
    ):
        build_model(model)


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 200)])
@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("share", [0.1, None])
def test_what_a_network_over_budget_is_told_to_be_fits(
    name: str, share: float | None, classes: int, channels: int
) -> None:
    model = recipes.load(name).model
    count = count_parameters(model, channels, classes)
    model = model.model_copy(update={"parameter_budget": count - 1 if share is None else int(share * count)})
    with pytest.raises(BudgetError) as caught:
        build_model(model, channels, classes, name)
    advice = str(caught.value).split("; ")[1]
    widths, _, budget = advice.partition(", or raise ")
    said = re.fullmatch(r"set (.*) \(([\d,]+) parameters\)", widths)
    assert said is not None
    overrides = [each.replace(" = ", "=") for each in said[1].split(" and ")]
    smaller = recipes.with_overrides(recipes.load(name), overrides).model
    assert f"{count_parameters(smaller, channels, classes):,}" == said[2]
    assert count_parameters(smaller, channels, classes) <= model.parameter_budget
    assert budget == f"model.parameter_budget to {count}"


def test_advice_that_would_not_work_is_left_out() -> None:
    with pytest.raises(BudgetError, match=r"over the budget of 10; raise model.parameter_budget to \d+$"):
        build_model(config(parameter_budget=10))
    with pytest.raises(BudgetError, match=r"of 10; no width fits, so give another recipe$"):
        build_model(config(widths=[65536, 65536], parameter_budget=10))


def test_the_budget_itself_is_allowed() -> None:
    count = count_parameters(config())
    build_model(config(parameter_budget=count))
    with pytest.raises(BudgetError):
        build_model(config(parameter_budget=count - 1))


def test_expected_parameters_are_checked() -> None:
    recipe = recipes.with_changes(recipes.load("liu-4x2"), {"expect": {"parameters": 2_799_147}})
    with pytest.raises(RecipeError, match=r"expect\.parameters = 2,799,147 but liu-4x2 has 2,799,146"):
        check_recipe_network(recipe)
