"""What calibrated quantisers learn from text, one decoder layer in memory at a time."""
