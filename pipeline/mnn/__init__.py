"""Everything that knows Alibaba's MNN: its converter, its graph format, its engine. Native code runs in child processes only."""
