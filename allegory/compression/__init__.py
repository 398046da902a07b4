"""Compression: a file as long as the likelihood says."""

from allegory.compression.coding import Report, compress, decompress, read_about, read_file, write_file

__all__ = ["Report", "compress", "decompress", "read_about", "read_file", "write_file"]
