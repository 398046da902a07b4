"""Tables: frames, CSV and Parquet in, numbers with gaps out, and back."""

from allegory.tabular.columns import Column
from allegory.tabular.findings import remarks
from allegory.tabular.reading import Dialect, Table, read_frame
from allegory.tabular.schema import Schema
from allegory.tabular.writing import write_frame

__all__ = ["Column", "Dialect", "Schema", "Table", "read_frame", "remarks", "write_frame"]
