"""Tables: frames, CSV and Parquet in, numbers with gaps out, and back."""

from allegory.tabular.columns import Column
from allegory.tabular.schema import Schema

__all__ = ["Column", "Schema"]
