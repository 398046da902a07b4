"""Data: arrays, images and built-in sets in, tensors out."""

from allegory.data.files import file_names
from allegory.data.splits import (
    Data,
    binarize,
    checksum,
    choose_likelihood,
    describe,
    load,
    load_together,
    read,
    reload,
    to_binary,
    two_values,
)
from allegory.data.stored import Stored
from allegory.data.values import remarks

__all__ = [
    "Data",
    "Stored",
    "binarize",
    "checksum",
    "choose_likelihood",
    "describe",
    "file_names",
    "load",
    "load_together",
    "read",
    "reload",
    "remarks",
    "to_binary",
    "two_values",
]
