"""Which options `quantize` refuses: those that the source of its ranges would not use."""

import pytest
from tiny_run import run_edgestill

from pipeline.errors import RecipeError

REFUSED = {
    "--sketches a.npz --threads 2": "--sketches makes no use of --threads: leave it out, or give --data too.",
    "--sketches a.npz --max-drop 1 --explain": "--sketches makes no use of --explain, --max-drop: leave them out, or",
    "--sketches a.npz --images 8": "--sketches makes no use of --images: leave it out, or give --data in place of",
    "--sketches a.npz --data x.npz --images 8": "--sketches with --data makes no use of --images: leave it out.",
    "--sketches a.npz --data x.npz --cache c": "--sketches with --data makes no use of --cache: leave it out.",
    "--cache a.cache --method entropy": "--cache makes no use of --method: leave it out, or give --data in place of",
    "--cache a.cache --data x.npz --repair bias": "--cache makes no use of --data, --repair: leave them out.",
    "--explain --batch-size 8": "--explain makes no use of --batch-size: give --data too, or leave it out.",
    "--method mse": "--data is missing; only --sketches, --explain and --cache go without.",
}


@pytest.mark.parametrize("options", REFUSED)
def test_an_option_that_would_not_be_used_is_refused(options: str) -> None:
    done = run_edgestill("quantize", "net.onnx", "--family", "tensorrt", *options.split())
    assert done.returncode == RecipeError.exit_code
    assert REFUSED[options] in " ".join(done.stderr.split())
