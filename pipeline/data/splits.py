"""Who is used for what: training, validation, calibration or test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.process.randomness import Stream

SplitName = Literal["train", "validation", "calibration", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class SplitShares(BaseModel):
    """Share of the samples that each split gets; together 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Annotated[float, Field(gt=0, lt=1)] = 0.60
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.10
    calibration: Annotated[float, Field(gt=0, lt=1)] = 0.10
    test: Annotated[float, Field(gt=0, lt=1)] = 0.20

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitShares:
        total = sum(self.in_order())
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the shares sum to {total:.4g}; they must sum to 1")
        return self

    def in_order(self) -> tuple[float, ...]:
        """As `SPLITS` names them."""
        return tuple(getattr(self, name) for name in SPLITS)


def _random(seed: int, label: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, Stream.SPLITS], counter=[0, 0, label, 0]))


def split_by_content(
    digests: Sequence[str], labels: NDArray[np.int64], shares: SplitShares, seed: int
) -> list[SplitName]:
    """A split for each sample, the same in whatever order the samples come; equal images are always together.

    Class after class, each in an order that the seed draws, goes to the split that lies furthest behind its share:
    so every split keeps its share of all images and of each class to within two, also where classes are small.
    """
    label_of: dict[str, int] = {}
    for digest, label in zip(digests, labels.tolist(), strict=True):
        label_of[digest] = min(label, label_of.get(digest, label))
    wanted, given = shares.in_order(), [0] * len(SPLITS)
    split_of: dict[str, SplitName] = {}
    for label in sorted(set(label_of.values())):
        contents = sorted(digest for digest, of in label_of.items() if of == label)
        for position in _random(seed, label).permutation(len(contents)):
            behind = [share * (len(split_of) + 1) - got for share, got in zip(wanted, given, strict=True)]
            place = behind.index(max(behind))
            given[place] += 1
            split_of[contents[position]] = SPLITS[place]
    return [split_of[digest] for digest in digests]
