"""Networks of timm and torchvision by name.

Neither is a requirement, and timm needs a torchvision of torch's own build, so stub packages stand in for both: they
have the functions that are called, with the libraries' own signatures, and note what they are given.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import MachineLacks, RecipeError
from pipeline.models.interface import IMAGE, IMAGE_AXES, InputSpec, Interface, Shape
from pipeline.models.model import Model, make_model

MODEL: TypeAdapter[Any] = TypeAdapter(Model)

TIMM = """\
import torch

given = []


def list_models():
    return ["resnet18", "resnet50", "resnext50_32x4d", "mobilenetv3_small_100"]


def is_model(model_name):
    return model_name.partition(".")[0] in list_models()


def create_model(model_name, pretrained=False, num_classes=1000, in_chans=3, drop_rate=0.0, size=8):
    given.append((model_name, pretrained, num_classes, in_chans, drop_rate))
    if model_name == "resnext50_32x4d":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_chans * size * size, num_classes))
"""

TORCHVISION = """\
import collections
import functools

import torch

given = []
Both = collections.namedtuple("Both", ["logits", "aux"])


class Classifier(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = torch.nn.Linear(3, num_classes)

    def forward(self, x):
        logits = self.fc(x.mean((2, 3)))
        return Both(logits, logits) if self.training else logits


class Segmenter(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.classifier = torch.nn.Conv2d(3, num_classes, 1)

    def forward(self, x):
        return {"out": self.classifier(x), "aux": x}


def googlenet(*, weights=None, progress=True, num_classes=1000):
    return Classifier(num_classes)


def legacy(builder):
    @functools.wraps(builder)
    def inner(*args, **kwargs):
        return builder(*args, **kwargs)
    return inner


@legacy
def fcn_resnet50(*, weights=None, progress=True, num_classes=None, aux_loss=None, weights_backbone="IMAGENET1K_V1"):
    assert weights_backbone is None, "downloads"
    return Segmenter(num_classes)


def list_models():
    return ["googlenet", "fcn_resnet50"]


def get_model_builder(name):
    return {"googlenet": googlenet, "fcn_resnet50": fcn_resnet50}[name]


def get_model(name, **config):
    assert config["weights"] is None, "downloads"
    return get_model_builder(name)(**config)
"""


def of_image(shape: Shape = (3, 8, 8), output: Shape = (5,)) -> Interface:
    return Interface((InputSpec(IMAGE, "float32", shape, IMAGE_AXES),), {"logits": output}, 5)


Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package in front of whatever is installed under its name."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)

    def write(package: str, source: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / package).mkdir()
        init = "from torchvision import models\n" if package == "torchvision" else source
        (tmp_path / package / "__init__.py").write_text(init)
        (tmp_path / package / "models.py").write_text(source)

    return write


def made(name: str, interface: Interface | None = None, **options: Any) -> Any:
    return make_model(MODEL.validate_python({"name": name, "options": options}), interface or of_image(), Path())


def refused(name: str, interface: Interface | None = None, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        made(name, interface, **options)
    return str(caught.value)


def test_timm_is_told_classes_and_channels_and_never_to_download(install: Install) -> None:
    install("timm", TIMM)
    network = made("timm:resnet50.a1_in1k", of_image((2, 8, 8)), drop_rate=0.25)
    assert network(torch.zeros(1, 2, 8, 8)).shape == (1, 5)
    assert sys.modules["timm"].given == [("resnet50.a1_in1k", False, 5, 2, 0.25)]


def test_a_recipe_that_names_a_library_is_read_without_importing_it(install: Install) -> None:
    install("timm", "raise RuntimeError('imported too early')")
    assert MODEL.validate_python({"name": "timm:resnet50"}).library == "timm"
    assert "timm" not in sys.modules


def test_a_torchvision_classifier_gives_its_main_output_in_training_too(install: Install) -> None:
    install("torchvision", TORCHVISION)
    network = made("torchvision:googlenet")
    assert network.train()(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_a_torchvision_segmenter_keeps_its_names_and_gives_its_main_output_wherever_it_goes(install: Install) -> None:
    install("torchvision", TORCHVISION)
    network = made("torchvision:fcn_resnet50", of_image(output=(5, 8, 8)))
    # Weights that were saved from torchvision's own fit.
    assert list(network.state_dict()) == ["classifier.weight", "classifier.bias"]
    images = torch.rand(2, 3, 8, 8)
    expected = network.classifier(images)
    assert torch.equal(network(images), expected)
    assert torch.equal(copy.deepcopy(network)(images), expected)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, of its own deprecations
        program = torch.onnx.export(network.eval(), (images,), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    assert [node.op_type for node in program.model_proto.graph.node] == ["Conv"]
    assert len(program.model_proto.graph.output) == 1


def test_without_the_library_the_machine_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MachineLacks) as caught:
        made("timm:resnet50")
    assert str(caught.value) == (
        "model timm:resnet50: timm cannot be imported (ModuleNotFoundError: import of timm halted; "
        "None in sys.modules); pip install 'edgestill[vision]'"
    )


def test_a_library_that_does_not_fit_the_installed_torch_is_lacking_with_its_own_reason(install: Install) -> None:
    install("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(MachineLacks) as caught:
        made("torchvision:resnet18")
    assert str(caught.value) == (
        "model torchvision:resnet18: torchvision cannot be imported "
        "(RuntimeError: operator torchvision::nms does not exist); pip install 'edgestill[vision]'"
    )


def test_a_name_that_a_library_does_not_know_is_answered_with_near_ones(install: Install) -> None:
    install("timm", TIMM)
    install("torchvision", TORCHVISION)
    assert refused("timm:resnet5O") == (
        "model timm:resnet5O: timm has no network 'resnet5O'; did you mean resnet50 or resnet18 or resnext50_32x4d?"
    )
    assert refused("torchvision:fcn_resnet") == (
        "model torchvision:fcn_resnet: torchvision has no network 'fcn_resnet'; did you mean fcn_resnet50?"
    )
    assert refused("timm:zzz") == (
        "model timm:zzz: timm has no network 'zzz'; look its name up in the library's documentation"
    )


def test_an_option_that_a_library_does_not_take_is_a_mistake_of_the_recipe(install: Install) -> None:
    install("timm", TIMM)
    assert refused("timm:resnet50", drop=0.1) == (
        "model timm:resnet50: timm cannot make it "
        "(TypeError: create_model() got an unexpected keyword argument 'drop'); its options are {'drop': 0.1}"
    )


def test_a_network_larger_than_memory_is_said_to_be_that(install: Install) -> None:
    install("timm", TIMM)
    assert refused("timm:resnext50_32x4d") == (
        "model timm:resnext50_32x4d: cannot be made (DefaultCPUAllocator: can't allocate memory); use smaller widths"
    )


def test_a_network_of_one_size_of_image_says_so(install: Install) -> None:
    install("timm", TIMM)
    assert refused("timm:resnet50", size=4).startswith(
        "model timm:resnet50: does not take 2 images of shape (3, 8, 8): RuntimeError: mat1 and mat2 shapes"
    )


def test_torchvision_takes_images_of_three_channels(install: Install) -> None:
    install("torchvision", TORCHVISION)
    assert refused("torchvision:googlenet", of_image((1, 8, 8))) == (
        "model torchvision:googlenet: torchvision's networks take images of 3 channels, the data has 1; "
        "use a network of timm or a built-in one, or convert the images"
    )


def test_a_task_of_other_inputs_needs_a_file_of_its_own() -> None:
    rows = Interface((InputSpec("rows", "float32", (8, 6), ("length", "features")),), {"logits": (5,)}, 5)
    assert refused("timm:resnet50", rows) == (
        "model timm:resnet50: takes one image and gives one output, the task has rows (8, 6) -> logits (5,); "
        'make a network in a file of your own, { file = "models.py:function" }'
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"name": "tim:resnet50"}, "library 'tim' is unknown; did you mean 'timm'? choose from timm, torchvision"),
        ({"name": "timm:"}, "'timm:' names no network; write it as timm does, such as timm:resnet18"),
        ({"name": "timm:hf-hub:some/one"}, "'timm:hf-hub:some/one' names no network; write it as timm does"),
        (
            {"name": "timm:resnet50", "options": {"pretrained": True}},
            "options.pretrained: nothing is downloaded; save the weights as a local file and name it in "
            '[teacher] weights = "teacher.safetensors"',
        ),
        ({"name": "torchvision:resnet50", "options": {"weights": "DEFAULT"}}, "options.weights: nothing is downloaded"),
        (
            {"name": "torchvision:fcn_resnet50", "options": {"weights_backbone": "DEFAULT"}},
            "options.weights_backbone: nothing is downloaded",
        ),
        (
            {"name": "timm:resnet50", "options": {"checkpoint_path": "x.pt"}},
            "options.checkpoint_path: nothing is downloaded",
        ),
        (
            {"name": "timm:resnet50", "options": {"num_classes": 3}},
            "options.num_classes: comes from the data; leave it",
        ),
        ({"name": "timm:resnet50", "options": {"in_chans": 3}}, "options.in_chans: comes from the data; leave it out"),
        ({"name": "timm:resnet50", "options": {"rate": float("nan")}}, "options hold nan or inf; give finite numbers"),
        ({"name": "timm:resnet50", "widths": [4]}, "'widths' is no key; the keys are name, options"),
    ],
)
def test_what_a_recipe_may_not_ask_of_a_library_is_refused_when_it_is_read(
    document: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        MODEL.validate_python(document)
    assert message in str(caught.value)
