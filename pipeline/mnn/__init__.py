"""Everything that knows Alibaba's MNN: converter, graph format, engine. Native code runs in child processes only."""
