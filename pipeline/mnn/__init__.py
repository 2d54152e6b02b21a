"""Everything that knows Alibaba's MNN: converter, graph format, engine. Its native code runs in child processes only."""
