"""Methods as a command line and a file of ranges write them: `entropy`, or `percentile:99.9` with its setting."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

from calibration import METHODS
from calibration.errors import CalibrationError
from calibration.methods.method import Method


def method_from_text(text: str) -> Method:
    """Raises CalibrationError with what to write instead."""
    name, colon, value = text.partition(":")
    if name not in METHODS:
        raise CalibrationError(f"calibration method {name!r} is unknown; choose from {', '.join(METHODS)}")
    method = METHODS[name]
    if not colon:
        return method
    setting = setting_of(method)
    if setting is None:
        raise CalibrationError(f"method {name!r} has no setting; write {name!r} alone, found {text!r}")
    try:
        number = float(value)
    except ValueError:
        raise CalibrationError(f"method {text!r}: {value!r} is no number; write {text_from_method(method)!r}") from None
    return replace(method, **{setting: number})  # type: ignore[type-var]  # a method with a setting is a dataclass


def text_from_method(method: Method) -> str:
    """The same text for the same method: its name, and its setting where it has one."""
    setting = setting_of(method)
    return method.name if setting is None else f"{method.name}:{getattr(method, setting):g}"


def setting_of(method: Method) -> str | None:
    """The name of its one setting, where it has one."""
    return next((field.name for field in fields(method)), None) if is_dataclass(method) else None
