"""Every name of TensorRT's that the package uses exists in 10.3, 10.16, 11.1 and the TensorRT-RTX installed here.

The package annotates TensorRT's objects with their class names; this test follows them through the syntax tree.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from host_cuda import HostCuda

from engines.tensorrt import api
from engines.tensorrt.loading import DTYPES
from engines.tensorrt.output_allocator import OutputMemory

PACKAGE = Path(str(api.__file__)).parent
VERSIONS = ("10.3", "10.16", "11.1")
NO_CLASSES = {"Any", "TypeAlias", "annotations", "Module"}
CLASSES = frozenset(name for name in vars(api) if not name.startswith("_")) - NO_CLASSES

# TensorRT-RTX alone has these; engines/tensorrt/module.py asks for them first.
RTX_ONLY = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("IBuilderConfig", "get_compute_capability"),
    ("ComputeCapability", ""),
    ("ComputeCapability", "__members__"),
    ("CudaGraphStrategy", ""),
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
    ("ICudaEngine", "create_runtime_config"),  # 10.16 has it too, without the strategy
    ("IRuntimeConfig", "cuda_graph_strategy"),
}

# Methods that TensorRT calls by name on an object of ours; its base class has them in its documentation alone.
CALLED_BACK = {
    ("IOutputAllocator", "reallocate_output"): "(self, tensor_name, memory, size, alignment)",
    ("IOutputAllocator", "reallocate_output_async"): "(self, tensor_name, memory, size, alignment, stream)",
    ("IOutputAllocator", "notify_shape"): "(self, tensor_name, shape)",
}

# Newer than 10.3; engines/tensorrt/settings.py asks for it before it is used.
SINCE_10_16 = {("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY")}

# Of create_execution_context, where the module captures CUDA graphs itself, which TensorRT-RTX alone does.
SINCE_10_16_KEYWORDS = {"runtime_config"}

# Removed with implicit quantization; engines/tensorrt/ranges.py asks for the first before any of them is used.
UP_TO_10 = {
    ("ITensor", "set_dynamic_range"),
    ("ITensor", "dynamic_range"),
    ("BuilderFlag", "INT8"),
    ("BuilderFlag", "FP16"),
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
}


@dataclass(frozen=True)
class Use:
    """A class of TensorRT's, a member of it (empty: the class itself), and how it is called or set."""

    owner: str
    member: str = ""
    positional: int = 0
    keywords: tuple[str, ...] = ()
    called: bool = False
    written: bool = False


class Uses(ast.NodeVisitor):
    """Collects what a file uses of TensorRT; names get their class from annotations."""

    def __init__(self) -> None:
        self.found: set[Use] = set()
        self.nobodys: set[str] = set()
        self._scopes: list[dict[str, str]] = [{}]
        self._called: dict[ast.expr, ast.Call] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        annotated = ((a.arg, _class_in(a.annotation)) for a in (*node.args.args, *node.args.kwonlyargs))
        self._scopes.append({name: owner for name, owner in annotated if owner})
        # Annotations and loops first: a name is known in the whole function.
        for child in ast.walk(node):
            if isinstance(child, ast.AnnAssign) and (owner := _class_in(child.annotation)):
                self._scopes[0 if isinstance(child.target, ast.Attribute) else -1][ast.unparse(child.target)] = owner
        for child in ast.walk(node):
            if isinstance(child, ast.For | ast.comprehension) and (owner := self._owner(child.iter)):
                self._scopes[-1][ast.unparse(child.target)] = owner.removeprefix("list ")
        self.generic_visit(node)
        self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            if owner := self._owner(base):
                overridden = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
                self.found |= {Use(owner.removeprefix("class "), m) for m in overridden if not m.startswith("_")}
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._called[node.func] = node
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self._owner(node.value)
        call = self._called.get(node)
        if owner == "module" and not node.attr.startswith("__"):
            self.found.add(_use(node.attr, "__init__", call) if call else Use(node.attr))
        elif owner and owner != "module" and node.attr != "__class__":  # Python's, which every object has
            self.found.add(_use(owner.removeprefix("class "), node.attr, call, isinstance(node.ctx, ast.Store)))
        elif not owner:
            self.nobodys.add(node.attr)
        self.generic_visit(node)

    def _owner(self, node: ast.expr) -> str | None:
        for scope in reversed(self._scopes):
            if (name := ast.unparse(node)) in scope:
                return scope[name]
        if isinstance(node, ast.Attribute) and self._owner(node.value) == "module":
            return f"class {node.attr}"
        return None


def _use(owner: str, member: str, call: ast.Call | None, written: bool = False) -> Use:
    if call is None:
        return Use(owner, member, written=written)
    keywords = tuple(keyword.arg or "**" for keyword in call.keywords)
    return Use(owner, member, len(call.args), keywords, called=True)


def _class_in(annotation: ast.expr | None) -> str | None:
    words = ast.unparse(annotation) if annotation else ""
    inner = words.removeprefix("list[").removesuffix("]")
    if inner == "Module":
        return "module"
    return None if inner not in CLASSES else inner if inner == words else f"list {inner}"


def walked(source: str) -> Uses:
    visitor = Uses()
    visitor.visit(ast.parse(source))
    return visitor


def uses() -> set[Use]:
    return set().union(*(walked(file.read_text()).found for file in PACKAGE.glob("*.py")))


def problem(use: Use, known: dict[str, Any]) -> str | None:
    """What is wrong with a use in one version's API; None where nothing is."""
    if use.owner not in known:
        return f"there is no class {use.owner}"
    members = known[use.owner]["members"]
    if not use.member:
        return None
    found = members.get(use.member)
    if found is None:
        return f"{use.owner} has no {use.member}"
    if use.written and found != "property":
        return f"{use.owner}.{use.member} cannot be set"
    if use.called and not (isinstance(found, list) and any(_fits(use, names) for names in found)):
        return f"{use.owner}.{use.member} takes {found}, not {use.positional} and {list(use.keywords)}"
    return None


def _fits(use: Use, names: list[str]) -> bool:
    plain = [name.removesuffix("=") for name in names]
    given = {*plain[: use.positional], *use.keywords}
    required = {name for name in names if not name.endswith("=")}
    return use.positional <= len(names) and set(use.keywords) <= set(plain[use.positional :]) and required <= given


def api_of(version: str) -> dict[str, Any]:
    file = Path(__file__).parents[2] / "data" / "tensorrt-api" / f"tensorrt-{version}.json"
    known: dict[str, Any] = json.loads(file.read_text())["api"]
    return known


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_used_exists_in_this_version(version: str) -> None:
    known = api_of(version)
    newer_or_gone = {"10.3": SINCE_10_16, "11.1": UP_TO_10}.get(version, set())
    elsewhere = RTX_ONLY | CALLED_BACK.keys() | newer_or_gone
    used = (use for use in uses() if version != "10.3" or not SINCE_10_16_KEYWORDS & set(use.keywords))
    wrong = [problem(use, known) for use in used if (use.owner, use.member) not in elsewhere]
    assert [text for text in wrong if text] == []


def test_everything_used_exists_in_the_tensorrt_rtx_installed_here() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed here")
    used = (use for use in uses() if (use.owner, use.member) not in UP_TO_10 | CALLED_BACK.keys())
    assert sorted(text for use in used for text in problems_with(trt, use)) == []


def test_what_tensorrt_calls_on_our_objects_has_the_names_and_arguments_that_it_documents() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed here")
    for (owner, name), arguments in CALLED_BACK.items():
        assert f"def {name}{arguments}:" in getattr(trt, owner).__doc__
        assert Use(owner, name) in uses()
    parameters = signature(OutputMemory(trt, HostCuda()).allocator.reallocate_output_async).parameters
    assert len(parameters) == len(CALLED_BACK["IOutputAllocator", "reallocate_output_async"].split(",")) - 1


def problems_with(trt: Any, use: Use) -> Iterator[str]:
    owner = getattr(trt, use.owner, None)
    if owner is None:
        yield f"there is no class {use.owner}"
    elif use.member and not hasattr(owner, use.member):
        yield f"{use.owner} has no {use.member}"
    elif use.keywords:
        signature = str(getattr(owner, use.member).__doc__)
        yield from (f"{use.owner}.{use.member} has no {word}" for word in use.keywords if f"{word}:" not in signature)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_types_of_a_session_exist_in_this_version(version: str) -> None:
    assert set(DTYPES) <= set(api_of(version)["DataType"]["members"])


def test_no_object_of_tensorrt_goes_without_the_name_of_its_class() -> None:
    members = {m for owner in CLASSES for m in api_of("11.1")[owner]["members"] if "_" in m.strip("_")}
    nobodys = set().union(*(walked(file.read_text()).nobodys for file in PACKAGE.glob("*.py")))
    assert members & nobodys == set()


def test_the_walk_reaches_what_only_a_gpu_could_run() -> None:
    reached = {f"{use.owner}.{use.member}" for use in uses()}
    assert reached >= {
        "Builder.build_serialized_network",
        "BuilderFlag.INT8",
        "BuilderFlag.TF32",
        "IBuilderConfig.progress_monitor",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.get_tensor_profile_shape",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.get_tensor_shape",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.set_tensor_address",
        "IExecutionContext.set_optimization_profile_async",
        "IExecutionContext.set_output_allocator",
        "IOutputAllocator.notify_shape",
        "ILayer.metadata",
        "ILogger.log",
        "IOptimizationProfile.set_shape",
        "IProgressMonitor.step_complete",
        "IConstantLayer.weights",
        "IPoolingLayer.type",
        "IResizeLayer.resize_mode",
        "ITensor.is_shape_tensor",
        "ITensor.set_dynamic_range",
        "ITensor.shape",
        "LayerType.EINSUM",
        "OnnxParser.parse_from_file",
        "ParserError.node_operator",
        "Runtime.engine_host_code_allowed",
        "TensorIOMode.OUTPUT",
    }


@pytest.mark.parametrize(
    ("misspelt", "said"),
    [
        ("profile.set_shape('x', min=1, opt=2, maxi=3)", "IOptimizationProfile.set_shape takes"),
        ("profile.set_shape('x', 1, 2)", "IOptimizationProfile.set_shape takes"),
        ("profile.set_shapes('x', 1, 2, 3)", "IOptimizationProfile has no set_shapes"),
        ("trt.BuilderFlag.TF23", "BuilderFlag has no TF23"),
        ("trt.BuilderFlags.TF32", "there is no class BuilderFlags"),
        ("trt.Builder()", "Builder.__init__ takes"),
        ("[layer.meta for layer in layers]", "ILayer has no meta"),
        ("tensor.dtype = 1", "ITensor.dtype cannot be set"),
    ],
)
def test_a_misspelt_name_is_caught(misspelt: str, said: str) -> None:
    parameters = "trt: Module, profile: IOptimizationProfile, layers: list[ILayer], tensor: ITensor"
    found = [problem(use, api_of("11.1")) for use in walked(f"def f({parameters}) -> None:\n    {misspelt}\n").found]
    texts = [text for text in found if text]
    assert texts
    assert all(text.startswith(said) for text in texts)
