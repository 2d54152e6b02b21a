"""In the build's own process."""

from toys.shared import called


def run(config, inputs, out, log):
    called("config")
    (out / "config.json").write_text('{"threads": %d}' % config["target"]["runtime"]["thread_num"])
