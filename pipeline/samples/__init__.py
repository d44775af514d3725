"""Where raw samples and labels come from: built-in digits, a .npz, a folder of images a class, a user's factory."""

from pipeline.samples.arrays import npz
from pipeline.samples.base import Axes, Raw, Samples
from pipeline.samples.composed import ROWS_AXES, digit_canvases, digit_rows
from pipeline.samples.digits import digits, digits_file
from pipeline.samples.factory import from_factory
from pipeline.samples.folder import IMAGE_SUFFIXES, ImageFolder, image_files, read_image

__all__ = [
    "IMAGE_SUFFIXES",
    "ROWS_AXES",
    "Axes",
    "ImageFolder",
    "Raw",
    "Samples",
    "digit_canvases",
    "digit_rows",
    "digits",
    "digits_file",
    "from_factory",
    "image_files",
    "npz",
    "read_image",
]
