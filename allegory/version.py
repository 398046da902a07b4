"""The version of allegory."""

__version__ = "0.2.0"
