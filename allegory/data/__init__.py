"""Data: arrays, images and built-in sets in, tensors out."""

from allegory.data.cells import load_cells
from allegory.data.conditions import Condition, Conditions, as_conditions, join_conditions
from allegory.data.description import checksum, describe
from allegory.data.files import file_names
from allegory.data.likelihood import choose_likelihood
from allegory.data.recoding import binarize, to_binary, two_values
from allegory.data.splits import Data, load, load_together, read, read_given, reload
from allegory.data.stored import Stored
from allegory.data.tables import is_table
from allegory.data.values import remarks

__all__ = [
    "Condition",
    "Conditions",
    "Data",
    "Stored",
    "as_conditions",
    "binarize",
    "checksum",
    "choose_likelihood",
    "describe",
    "file_names",
    "is_table",
    "join_conditions",
    "load",
    "load_cells",
    "load_together",
    "read",
    "read_given",
    "reload",
    "remarks",
    "to_binary",
    "two_values",
]
