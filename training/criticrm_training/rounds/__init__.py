"""Rounds of self-training: sample critiques, filter, refine, train, and again from the new critic."""
