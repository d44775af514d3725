"""One set of tensors for engines that take different ones: each picks its own, so that all are timed on the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from numpy.typing import NDArray

from engines.base import UINT8_NHWC, Arrays, Session, Target, TensorInfo

BYTES = f"{UINT8_NHWC} "
"""In front of the name of an input, where a set holds its bytes beside its floats."""


def both_forms(floats: Arrays, as_bytes: Arrays) -> dict[str, NDArray[Any]]:
    """One set that `FedSession` picks from."""
    return {**floats, **{f"{BYTES}{name}": array for name, array in as_bytes.items()}}


@final
class FedSession(Session):
    """An engine's session that takes sets of both forms. Closing it closes the session."""

    def __init__(self, session: Session, target: Target) -> None:
        self._session = session
        front = BYTES if target.input == UINT8_NHWC else ""
        self._keys: Mapping[str, str] = {info.name: f"{front}{info.name}" for info in session.inputs}

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._session.outputs

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        return self._session.run({name: feeds[key] for name, key in self._keys.items()})

    def close(self) -> None:
        self._session.close()
