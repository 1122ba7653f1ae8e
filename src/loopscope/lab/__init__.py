"""The interactive page: watch a loop think, push it, change its question, let it run.

``exhibit`` puts a loop of one's own on the page. `loopscope.lab.page` makes the page; importing it needs Gradio.
"""

from loopscope.lab.exhibits import Exhibit, exhibit

__all__ = ["Exhibit", "exhibit"]
