"""What hooks read from the layers of a network, and what they refuse."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from pipeline.distillation.features import Features
from pipeline.errors import RecipeError
from pipeline.networks import ResidualNetwork

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def residual() -> ResidualNetwork:
    torch.manual_seed(0)
    return ResidualNetwork(1, (4, 6), 10).eval()


class Gives(nn.Module):
    """Runs its layer, and gives what a function makes of it."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, found: Tensor) -> Any:
        return self.make(found)


class Around(nn.Module):
    """A network whose output does not depend on what its layer gives."""

    def __init__(self, layer: nn.Module, runs: int = 1) -> None:
        super().__init__()
        self.layer, self.runs = layer, runs

    def forward(self, images: Tensor) -> Tensor:
        for step in range(self.runs):
            self.layer(images + step)
        return images


class Attends(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, rows: Tensor) -> Any:
        return self.attention(rows, rows, rows)[0]


def gradient(network: nn.Module, name: str) -> Tensor:
    """Of a parameter that has one."""
    found = network.get_parameter(name).grad
    assert found is not None
    return found


def test_layers_are_read_by_their_path_and_their_input_by_its_suffix() -> None:
    network = residual()
    with Features(network, ("stem.0", "stages.1", "head@input", "head"), "student") as features:
        outputs = network(IMAGES)
        found = features.take()
    assert list(found) == ["stem.0", "stages.1", "head@input", "head"]
    torch.testing.assert_close(found["stem.0"], network.stem[0](IMAGES))
    torch.testing.assert_close(found["stages.1"], network.stages(network.stem(IMAGES)))
    torch.testing.assert_close(found["head@input"], found["stages.1"].mean((2, 3)))
    torch.testing.assert_close(found["head"], outputs)


def test_an_input_given_by_keyword_is_read_too() -> None:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, images: Tensor) -> Any:
            return self.layer(input=images)

    network = Calls()
    with Features(network, ("layer@input",), "student") as features:
        network(IMAGES)
        assert torch.equal(features.take()["layer@input"], IMAGES)


def test_hooks_change_neither_outputs_nor_state_and_leave_nothing_behind() -> None:
    network, untouched = residual(), residual()
    features = Features(network, ("stem", "head@input"), "teacher")
    assert torch.equal(network(IMAGES), untouched(IMAGES))
    features.close()
    features.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert network.state_dict().keys() == untouched.state_dict().keys()
    network(IMAGES)
    with pytest.raises(RecipeError, match="teacher layer 'stem' did not run"):
        features.take()


def test_gradients_flow_through_what_was_read() -> None:
    network = residual()
    with Features(network, ("stem",), "student") as features:
        network(IMAGES)
        features.take()["stem"].square().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert gradient(network, "stem.0.weight").abs().sum() > 0
    assert network.get_parameter("head.weight").grad is None


def test_an_operation_in_place_that_follows_does_not_reach_what_was_read() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    in_place = nn.Sequential(copy.deepcopy(plain[0]), nn.ReLU(inplace=True))
    gradients = []
    for network in (plain, in_place):
        with Features(network, ("0", "1@input"), "student") as features:
            outputs = network(IMAGES)
            found = features.take()
        torch.testing.assert_close(found["0"], plain[0](IMAGES))
        torch.testing.assert_close(found["1@input"], found["0"])
        (found["0"].square().sum() + outputs.sum()).backward()
        gradients.append(gradient(network, "0.weight"))
    torch.testing.assert_close(*gradients)


def test_a_layer_that_runs_several_times_is_read_the_last_time() -> None:
    network = Around(nn.Identity(), runs=3)
    with Features(network, ("layer",), "student") as features:
        network(IMAGES)
        torch.testing.assert_close(features.take()["layer"], IMAGES + 2)


def test_what_was_read_is_forgotten_by_taking_and_by_the_next_forward() -> None:
    network = Around(nn.Identity())
    with Features(network, ("layer",), "student") as features:
        network(IMAGES)
        features.take()
        with pytest.raises(RecipeError, match="did not run"):
            features.take()
        network(IMAGES)
        network.runs = 0
        network(IMAGES)
        with pytest.raises(RecipeError, match="did not run"):
            features.take()


def test_a_module_that_stands_under_two_paths_is_read_under_either() -> None:
    shared = nn.Linear(8, 8)
    network = nn.Sequential(shared, shared)
    with Features(network, ("0", "1"), "student") as features:
        network(IMAGES)
        assert torch.equal(*features.take().values())


@pytest.mark.parametrize("gives", [lambda found: (found, None), lambda found: [found, 3]])
def test_of_a_tuple_the_first_tensor_is_read(gives: Callable[[Tensor], Any]) -> None:
    network = Around(Gives(gives))
    with Features(network, ("layer",), "student") as features:
        network(IMAGES)
        assert torch.equal(features.take()["layer"], IMAGES)


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda _: None, "gives None"),
        (lambda _: 3, "gives int"),
        (lambda _: {"maps": 1, "mask": 2}, "gives a dict of maps, mask"),
        (lambda _: ({"maps": 1},), "gives a dict of maps"),
        (lambda _: (None, 1), "gives a tuple that begins with None"),
        (lambda _: (), "gives tuple"),
        (lambda found: found.argmax(1), "gives a tensor of int64"),
    ],
)
def test_a_layer_that_gives_no_tensor_of_floating_point_is_refused(gives: Callable[[Tensor], Any], said: str) -> None:
    network = Around(Gives(gives))
    with Features(network, ("layer",), "student") as features:
        network(IMAGES)
        with pytest.raises(RecipeError, match=f"student layer 'layer' {said}, where a tensor is needed") as refusal:
            features.take()
    assert "name a layer inside it" in str(refusal.value)


def test_an_input_that_is_no_tensor_is_refused_as_what_the_layer_takes() -> None:
    network = nn.Sequential(Gives(lambda _: None), Gives(lambda _: IMAGES))
    with Features(network, ("1@input",), "student") as features:
        network(IMAGES)
        with pytest.raises(RecipeError, match="student layer '1' takes a tuple that begins with None"):
            features.take()


def test_a_layer_that_does_not_run_is_refused() -> None:
    network = residual()
    network.spare = nn.Linear(1, 1)
    with Features(network, ("spare",), "teacher") as features:
        network(IMAGES)
        with pytest.raises(
            RecipeError, match="teacher layer 'spare' did not run in the network's forward; name a layer"
        ):
            features.take()


def test_a_wrong_name_lists_the_closest_ones_and_leaves_no_hook() -> None:
    network = residual()
    with pytest.raises(RecipeError) as refusal:
        Features(network, ("stem", "stages.1.conv3"), "student")
    text = str(refusal.value)
    assert text.startswith("[distill] student layer 'stages.1.conv3' is unknown; did you mean 'stages.1.conv")
    assert "the closest of its 20 layers are " in text
    assert text.partition(" are ")[2].count(",") == 4
    assert {"stages.1.conv1", "stages.1.conv2"} <= set(text.partition(" are ")[2].split(", "))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", ["@input", "stem@output", "stem.0.weight"])
def test_what_is_no_module_is_unknown(name: str) -> None:
    with pytest.raises(RecipeError, match="is unknown"):
        Features(residual(), (name,), "student")


def test_a_network_without_layers_says_so() -> None:
    with pytest.raises(RecipeError, match="of its 0 layers are none: it has no layers"):
        Features(nn.Linear(1, 1), ("stem",), "student")


def test_fused_attention_is_refused_as_a_projection_and_read_as_a_layer() -> None:
    network = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2)})
    with pytest.raises(RecipeError) as refusal:
        Features(network, ("attention@projection",), "student")
    assert "student layer 'attention' is an nn.MultiheadAttention" in str(refusal.value)
    assert "name the layers of an attention that keeps them apart" in str(refusal.value)
    with Features(network["attention"], ("out_proj",), "student") as features:
        network["attention"](IMAGES[:, 0], IMAGES[:, 0], IMAGES[:, 0])
        with pytest.raises(RecipeError, match="'out_proj' did not run"):
            features.take()
    whole = Attends(network["attention"])
    with Features(whole, ("attention",), "student") as features:
        assert torch.equal(whole(IMAGES[:, 0]), features.take()["attention"])


def test_names_are_of_the_network_inside_a_distributed_wrapper(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = residual().train()
        wrapped = nn.parallel.DistributedDataParallel(network)
        with Features(wrapped, ("stem",), "student") as features:
            outputs = wrapped(IMAGES)
            (outputs.sum() + features.take()["stem"].square().sum()).backward()
        assert gradient(network, "stem.0.weight").abs().sum() > 0
    finally:
        distributed.destroy_process_group()


def test_layers_are_read_under_autocast_and_in_inference_mode() -> None:
    network = residual()
    with Features(network, ("stem.0",), "teacher") as features:
        with torch.inference_mode():
            network(IMAGES)
        assert features.take()["stem.0"].is_inference()
        with torch.autocast("cpu", torch.bfloat16):
            network(IMAGES)
        assert features.take()["stem.0"].dtype == torch.bfloat16
