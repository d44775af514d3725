"""Which built-in network is made for which data, and the error that names the right one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.errors import RecipeError
from pipeline.models.interface import MASK, Interface, Shape


def interface_in_words(interface: Interface) -> str:
    """`rows (8, 8), mask (8,) -> logits (10,)`."""
    inputs = ", ".join(f"{spec.name} {spec.shape}" for spec in interface.inputs)
    outputs = ", ".join(f"{name} {shape or 'of any shape'}" for name, shape in interface.outputs.items())
    return f"{inputs} -> {outputs}"


def only_output(interface: Interface) -> Shape:
    """Shape of one sample's output where there is a single one of a known shape, else ()."""
    shapes = list(interface.outputs.values())
    return shapes[0] or () if len(shapes) == 1 else ()


def _is_image_to_vector(interface: Interface) -> bool:
    return interface.is_one_image() and len(only_output(interface)) == 1


def _is_image_to_image(interface: Interface) -> bool:
    output = only_output(interface)
    return interface.is_one_image() and len(output) == 3 and output[1:] == interface.inputs[0].shape[1:]


def _is_sequence(interface: Interface) -> bool:
    first, *others = interface.inputs
    # Features are floating-point numbers, ids are whole ones.
    numbers = {1: "iu", 2: "f"}.get(len(first.shape), "")
    masks = [(spec.name, spec.shape) for spec in others]
    output = only_output(interface)
    return (
        bool(numbers)
        and np.dtype(first.dtype).kind in numbers
        and masks in ([], [(MASK, first.shape[:1])])
        and (len(output) == 1 or (len(output) == 2 and output[0] == first.shape[0]))
    )


SUITS: dict[str, Callable[[Interface], bool]] = {
    "efficientnet": _is_image_to_vector,
    "mobilenet": _is_image_to_vector,
    "plain": _is_image_to_vector,
    "repvgg": _is_image_to_vector,
    "residual": _is_image_to_vector,
    "segmenter": _is_image_to_image,
    "transformer": _is_sequence,
    "vision_transformer": _is_image_to_vector,
}


def refuse_unless_suited(name: str, interface: Interface) -> None:
    """Raises RecipeError with the networks that are made for the data."""
    if SUITS[name](interface):
        return
    suited = [other for other, suits in SUITS.items() if suits(interface)]
    own = 'make one in a file of your own, { file = "models.py:function" }'
    raise RecipeError(
        f"model {name}: is not made for {interface_in_words(interface)}; "
        + (f"use {', '.join(suited)}, or {own}" if suited else f"no built-in network is: {own}")
    )
