"""The interactive page: watch a loop think, push it, change its question, let it run.

``exhibit`` puts a loop of your own on the page, ``language_exhibit`` a loop that was made of a language model.
`loopscope.lab.page` makes the page; importing it needs Gradio.
"""

from loopscope.lab.exhibits import Exhibit, exhibit
from loopscope.lab.language import language_exhibit

__all__ = ["Exhibit", "exhibit", "language_exhibit"]
