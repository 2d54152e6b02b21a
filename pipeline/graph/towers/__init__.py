"""Encoders beside the decoder (vision, audio): one adapter per family, everything else shared with the text graph."""
