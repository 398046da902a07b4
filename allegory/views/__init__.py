"""Views: tables, plots, pictures and reports."""

from allegory.views.figures import picture
from allegory.views.page import report
from allegory.views.publication import push
from allegory.views.runs import Reconstructions, Run, Summary, find, summary

__all__ = ["Reconstructions", "Run", "Summary", "find", "picture", "push", "report", "summary"]
