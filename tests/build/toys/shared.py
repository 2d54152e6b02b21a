"""What the toy stages import."""

import os
import subprocess
import sys
import time


def called(stage):
    """One line in the log of calls, in one write."""
    with open(os.environ["TOY_CALLS"], "a") as log:
        log.write(stage + "\n")
    if stage == "graph" and "TOY_CHILD" in os.environ:
        subprocess.run([sys.executable, "-c", os.environ["TOY_CHILD"]], check=True)
    if stage in os.environ.get("TOY_SLOW", "graph"):
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
