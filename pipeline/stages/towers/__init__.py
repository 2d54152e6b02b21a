"""What the stages of an encoder do, for whichever encoder: `visual_*` and `audio_*` are this, under their own names.

An encoder is a second small model beside the decoder: its own graph, weight file and link, so that neither is rebuilt
when the other's precision changes. No stages themselves; one module for each, since a stage's key counts all the code
that it imports.
"""
