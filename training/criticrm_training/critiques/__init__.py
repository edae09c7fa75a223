"""Stage 1: critiques written by a language model, filtered by the labels, and refined (arXiv 2411.16646)."""
