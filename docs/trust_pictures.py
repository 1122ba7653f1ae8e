"""Draw risk against coverage of what ships, from each run's trust.json: python docs/trust_pictures.py"""

from pathlib import Path

from loopscope.files import read_json
from loopscope.reports.charts import png
from loopscope.reports.trust import risk_figure
from loopscope.solving import SHIPPED
from loopscope.training.runs import RunFolder

HERE = Path(__file__).parent / "pictures"

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for task in ("sudoku", "chess"):
        splits = read_json(RunFolder(SHIPPED / task).trust)["splits"]
        (HERE / f"trust-{task}.png").write_bytes(png(risk_figure(splits)))
