"""The teacher's outputs on disk, each view computed once, in a fixed order, before training starts.

One `.npy` a view and tensor, mapped into memory when read; `index.json` lists them with their digests. Views are
complete or absent, so a killed pass goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from engines import files
from pipeline.context import Context
from pipeline.distillation.signals import Signals, TeacherSignals
from pipeline.distillation.top_k import filled, top_k_of
from pipeline.distillation.views import Batch, Batches
from pipeline.errors import IntegrityError, NotAcceptable, ResourceExhausted
from pipeline.files import atomic
from pipeline.files.digest import sha256_of_file, sha256_of_value

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.distillation.teachers import Teachers

PASS_BATCH_SIZE = 256
"""Fixed: another composition of the batches changes the last bits."""
INDEX = "index.json"
FREE_SHARE = 0.5
"""Of the free disk that `mode = "auto"` may take."""

Arrays = dict[str, NDArray[Any]]


class CacheSettings(BaseModel):
    """`[distill.cache]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["auto", "on", "off"] = "auto"
    """auto: where each of the teacher's answers is used more than once and the disk has room."""
    top_k: PositiveInt | None = None
    """How many logits of each decision are kept; what the others weigh together is spread evenly. None: all."""
    features: Literal["float16", "float32"] = "float16"
    """What features are kept in; outputs are float32."""
    max_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0


@dataclass(frozen=True)
class Kept:
    """What of the teachers is cached: how often each answer is used, and what makes it another one."""

    views: int
    epochs: int
    trials: int
    """Trainings that read it in one run."""
    identity: Mapping[str, Any]
    """JSON of everything that shapes the teachers' answers: their weights, the data, the plan, the tools."""

    def is_worth_it(self) -> bool:
        """Whether an answer is used more than once."""
        return self.views < self.epochs or self.trials > 1


def why_not_cached(settings: CacheSettings, kept: Kept, size_bytes: int, folder: Path) -> str | None:
    """None where the answers are to be cached; raises ResourceExhausted where that was asked for and has no room."""
    if settings.mode == "off":
        return "[distill.cache] mode is off"
    # A folder that is there already takes no more room.
    room = shutil.disk_usage(folder.parent).free if folder.parent.exists() else shutil.disk_usage("/").free
    needed = f"{size_bytes / 1e9:.2f} GB of teacher outputs"
    if settings.mode == "on":
        if size_bytes > room and not folder.exists():
            raise ResourceExhausted(f"{needed} do not fit on the disk ({room / 1e9:.2f} GB free); lower views or top_k")
        return None
    if not kept.is_worth_it():
        return "each of its answers is used once"
    if size_bytes > settings.max_gb * 1e9:
        return f"{needed} are more than max_gb = {settings.max_gb:g}"
    if size_bytes > room * FREE_SHARE and not folder.exists():
        return f"{needed} are more than half of the free disk"
    return None


class TeacherCache(TeacherSignals):
    """Reads what `written_cache` wrote; verified when it is opened."""

    def __init__(self, folder: Path, kept: Kept) -> None:
        self._views: list[Arrays] = []
        self._bytes = 0
        index = _index(folder, kept)
        for view in range(kept.views):
            entry = index["views"].get(str(view))
            if entry is None:
                raise IntegrityError(f"{folder}: view {view} is missing; run again")
            self._views.append(dict(self._verified(folder, entry)))

    def of(self, batch: Batch, rows: NDArray[np.int64], view: int) -> Signals:
        arrays, place = self._views[view], batch.labels.device
        outputs: dict[str, Tensor] = {}
        features: dict[str, Tensor] = {}
        import torch

        for name, array in arrays.items():
            kind, _, tensor = name.partition(":")
            found = torch.from_numpy(array[rows]).to(place, non_blocking=True)
            if kind == "output":
                outputs[tensor] = found
            elif kind == "feature":
                features[tensor] = found.float()
        for name in [name.removeprefix("values:") for name in arrays if name.startswith("values:")]:
            parts = (arrays[f"{part}:{name}"][rows] for part in ("values", "places", "rest"))
            outputs[name] = filled(*(torch.from_numpy(part).to(place) for part in parts))
        return Signals(outputs, features)

    def in_words(self) -> str:
        return f"computed once for {len(self._views)} views, {self._bytes / 1e6:.1f} MB on disk"

    def _verified(self, folder: Path, entry: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
        for name, found in entry.items():
            path = folder / found["file"]
            if not path.is_file() or sha256_of_file(path) != found["sha256"]:
                raise IntegrityError(f"{path}: is not the file that was recorded; remove {folder} and run again")
            self._bytes += path.stat().st_size
            yield name, np.load(path, mmap_mode="r", allow_pickle=False)


def cache_folder(root: Path, kept: Kept, settings: CacheSettings) -> Path:
    """Where the answers of these teachers to this plan stand, or will."""
    identity = {**kept.identity, "top_k": settings.top_k, "features": settings.features, "batch": PASS_BATCH_SIZE}
    return root / sha256_of_value(identity)[:16]


def written_cache(
    folder: Path, teachers: Teachers, batches: Batches, kept: Kept, settings: CacheSettings, context: Context
) -> None:
    """Computes the views that are not there yet; other caches beside it are removed, the newest alone is kept.

    Raises NotAcceptable where features exceed half precision, Cancelled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            atomic.remove(other)
    index = _index(folder, kept)
    missing = [view for view in range(kept.views) if str(view) not in index["views"]]
    with context.progress.phase("teacher outputs", len(missing) * len(batches)) as phase:
        for view in missing:
            arrays: dict[str, NDArray[Any]] = {}
            for start in range(0, len(batches), PASS_BATCH_SIZE):
                context.cancellation.check()
                rows = np.arange(start, min(start + PASS_BATCH_SIZE, len(batches)), dtype=np.int64)
                for name, part in _parts(teachers.ask(batches.of(rows, view)), context, settings):
                    if name not in arrays:
                        arrays[name] = _mapped(folder, name, len(batches), part)
                    arrays[name][rows] = part
                phase.advance(len(rows))
            index["views"][str(view)] = {name: _kept_file(folder, name, view) for name in arrays}
            arrays.clear()
            atomic.write_json(folder / INDEX, index)


def size_bytes(signals: Signals, rows: int, samples: int, views: int, settings: CacheSettings, context: Context) -> int:
    """Of the whole cache, told from the signals of one batch of so many rows."""
    one_batch = sum(part.nbytes for _, part in _parts(signals, context, settings))
    return one_batch * samples * views // max(rows, 1)


def _parts(signals: Signals, context: Context, settings: CacheSettings) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each array that is kept of a batch, with its name in the cache."""
    logits = context.task.outputs[0] if settings.top_k is not None and context.task.has_logits else None
    for name, tensor in signals.outputs.items():
        if name != logits or settings.top_k is None:
            yield f"output:{name}", tensor.float().cpu().numpy()
            continue
        for part, found in zip(("values", "places", "rest"), top_k_of(tensor.float(), settings.top_k), strict=True):
            yield f"{part}:{name}", found.cpu().numpy()
    for name, tensor in signals.features.items():
        kept = tensor.float().cpu().numpy().astype(settings.features)
        if not np.isfinite(kept).all():
            raise NotAcceptable(
                f"features of the teacher's layer '{name}' exceed half precision; "
                "set [distill.cache] features = 'float32'"
            )
        yield f"feature:{name}", kept


def _mapped(folder: Path, name: str, samples: int, part: NDArray[Any]) -> NDArray[Any]:
    return np.lib.format.open_memmap(
        _partial(folder, name), mode="w+", dtype=part.dtype, shape=(samples, *part.shape[1:])
    )


def _partial(folder: Path, name: str) -> Path:
    return folder / f".{sha256_of_value(name)[:12]}.partial"


def _kept_file(folder: Path, name: str, view: int) -> dict[str, str]:
    """Synced, renamed, hashed."""
    partial, path = _partial(folder, name), folder / f"{sha256_of_value(name)[:12]}.{view}.npy"
    files.sync(partial)
    partial.replace(path)
    return {"file": path.name, "sha256": sha256_of_file(path)}


def _index(folder: Path, kept: Kept) -> dict[str, Any]:
    """What is there; an index of anything else, or one that is not whole, is none."""
    fresh: dict[str, Any] = {"schema_version": 1, "identity": dict(kept.identity), "views": {}}
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return fresh
    whole = isinstance(found, dict) and found.get("identity") == json.loads(json.dumps(fresh["identity"]))
    return found if whole else fresh
