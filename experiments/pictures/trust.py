"""Draw risk against coverage of the shipped models, from the trust.json of each: python -m experiments.pictures.trust"""

from pathlib import Path

from loopscope.files import read_json
from loopscope.reports.kit.charts import png
from loopscope.reports.trust import risk_figure
from loopscope.shipped import MODELS
from loopscope.training.run_folder import RunFolder

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SHOWN = (("sudoku", "1-3 guesses"), ("sudoku", "10-99 guesses"), ("chess", "up to 1600"), ("chess", "2001-2400"))

if __name__ == "__main__":
    stored = {task: read_json(RunFolder(MODELS / task).trust)["splits"] for task, _ in SHOWN}
    splits = {f"{task}, {name}": stored[task][name] for task, name in SHOWN}
    (PICTURES / "trust.png").write_bytes(png(risk_figure(splits)))
