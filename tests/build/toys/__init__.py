"""A small pipeline of real shape. Tests copy it into a folder of their own, where they may edit it."""
