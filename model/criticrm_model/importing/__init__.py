"""Reward models that were trained elsewhere as checkpoints of this project, and the way back (docs/import.md)."""
