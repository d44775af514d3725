"""What a network answers, in evaluation mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.models.interface import named_outputs

if TYPE_CHECKING:
    from torch import nn

BATCH_SIZE = 256


def predictions(network: nn.Module, dataset: Dataset, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The network's outputs by name, (len(indices), ...), computed where its weights lie; its mode stays as it was."""
    import torch

    training = network.training
    network.eval()
    place = next(iter(network.parameters()), torch.zeros(()))
    parts: list[dict[str, NDArray[Any]]] = []
    with torch.inference_mode():
        for start in range(0, len(indices), BATCH_SIZE):
            inputs = [torch.from_numpy(each) for each in dataset.inputs(indices[start : start + BATCH_SIZE]).values()]
            found = network(
                *(each.to(place.device, place.dtype if each.is_floating_point() else None) for each in inputs)
            )
            outputs = named_outputs(found, tuple(dataset.interface.outputs))
            parts.append({name: tensor.cpu().numpy() for name, tensor in outputs.items()})
    network.train(training)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
