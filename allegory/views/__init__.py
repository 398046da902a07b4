"""Views: tables, plots, pictures and reports."""

from allegory.views.page import report
from allegory.views.runs import Reconstructions, Run, Summary, find, summary

__all__ = ["Reconstructions", "Run", "Summary", "find", "report", "summary"]
