"""The build engine: stages, action keys, the content-addressed store, workers."""
