"""In the build's own process."""

import json

from toys.shared import called


def run(config, inputs, out, log):
    called("config")
    (out / "config.json").write_text(json.dumps({"threads": config["target"]["runtime"]["thread_num"]}))
