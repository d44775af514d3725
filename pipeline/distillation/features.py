"""What layers of a network gave in its last forward, read by hooks. Imports torch: import it inside functions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, final

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from pipeline.distillation.losses.feature_loss import INPUT, PROJECTION
from pipeline.errors import RecipeError
from pipeline.names import nearest

_CLOSEST = 5
_SHOWN_KEYS = 5


@final
class Features:
    """Hooks on layers of a network, which stays as it is; `close`, or the end of a `with`, takes them off.

    A name is a module path, for what the module gives; with `@input` behind it, for the first input that the module
    takes. Under DistributedDataParallel the names are those of the network inside. A layer that runs several times in
    a forward is read the last time. What is read is a copy through which gradients flow: an operation in place that
    follows, such as ReLU(inplace=True), does not reach it.

    Raises RecipeError for a name that the network does not have, with the closest ones.
    """

    def __init__(self, network: nn.Module, names: Iterable[str], who: str) -> None:
        inner = network.module if isinstance(network, DistributedDataParallel) else network
        self._who = who
        self._collected: dict[str, Any] = {}
        modules = dict(inner.named_modules(remove_duplicate=False))
        # All names first: one that is wrong must not leave the hooks of the others behind.
        hooked = {name: self._module(modules, name) for name in dict.fromkeys(names)}
        self._names = tuple(hooked)
        self._handles = [inner.register_forward_pre_hook(self._forget)] if hooked else []
        self._handles += [self._hook(name, module) for name, module in hooked.items()]

    def take(self) -> dict[str, Tensor]:
        """What the layers gave in the last forward, by name; it is forgotten here.

        Raises RecipeError for a layer that did not run, or that gave anything but a tensor of floating point or a
        tuple that begins with one.
        """
        collected, self._collected = self._collected, {}
        return {name: self._checked(name, collected) for name in self._names}

    def close(self) -> None:
        """Takes the hooks off, and forgets what they read; may be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._collected = [], {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _module(self, modules: Mapping[str, nn.Module], name: str) -> nn.Module:
        path = name.removesuffix(INPUT).removesuffix(PROJECTION)
        if not path or path not in modules:
            known = [known for known in modules if known]
            closest = (
                ", ".join(difflib.get_close_matches(path, known, n=_CLOSEST, cutoff=0.0)) or "none: it has no layers"
            )
            raise RecipeError(
                f"[distill] {self._who} layer '{path}' is unknown{nearest(path, known) or ';'} the closest of its "
                f"{len(known)} layers are {closest}"
            )
        if name.endswith(PROJECTION) and isinstance(modules[path], nn.MultiheadAttention):
            raise RecipeError(
                f"[distill] {self._who} layer '{path}' is an nn.MultiheadAttention: it projects and attends in one "
                "fused call, so neither queries, keys nor the map can be read; name the layers of an attention that "
                "keeps them apart (an nn.Linear each), or use hidden_states on its output"
            )
        return modules[path]

    def _hook(self, name: str, module: nn.Module) -> RemovableHandle:
        if name.endswith(INPUT):

            def before(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
                self._collected[name] = _copied((*arguments, *named.values())[:1])

            return module.register_forward_pre_hook(before, with_kwargs=True)

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            self._collected[name] = _copied(output)

        return module.register_forward_hook(after)

    def _forget(self, _: nn.Module, __: tuple[Any, ...]) -> None:
        self._collected = {}

    def _checked(self, name: str, collected: Mapping[str, Any]) -> Tensor:
        path, takes = name.removesuffix(INPUT).removesuffix(PROJECTION), name.endswith(INPUT)
        where = f"[distill] {self._who} layer '{path}'"
        if name not in collected:
            raise RecipeError(f"{where} did not run in the network's forward; name a layer that it calls")
        found = collected[name]
        if not isinstance(found, Tensor):
            raise RecipeError(
                f"{where} {'takes' if takes else 'gives'} {found}, where a tensor is needed, or a tuple that begins "
                "with one; name a layer inside it"
            )
        return found


def _copied(found: Any) -> Tensor | str:
    """A copy of the tensor in it, or in words what it is instead."""
    first = found[0] if isinstance(found, (tuple, list)) and found else found
    if isinstance(first, Tensor) and first.is_floating_point():
        return first.clone()
    if isinstance(first, Tensor):
        return f"a tensor of {str(first.dtype).removeprefix('torch.')}"
    if isinstance(first, Mapping):
        keys = ", ".join(map(str, list(first)[:_SHOWN_KEYS]))
        return f"a {type(first).__name__} of {keys or 'nothing'}"
    shown = "None" if first is None else f"{type(first).__name__}"
    return shown if first is found else f"a {type(found).__name__} that begins with {shown}"
