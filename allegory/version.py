"""The version of allegory."""

__version__ = "0.1.0"
