"""One short file per stage; heavy imports inside run()."""
