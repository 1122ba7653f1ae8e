"""Figures and self-contained HTML pages."""

from loopscope.reports.examination.page import write_comparison, write_examination
from loopscope.stability.examination import WRITERS

WRITERS[".html"] = write_examination

__all__ = ["write_comparison", "write_examination"]
