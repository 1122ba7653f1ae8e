"""``python -m loopscope.cli`` does what ``loopscope`` does."""

import sys

from loopscope.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
