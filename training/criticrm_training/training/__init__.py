"""Stage 2: joint training of a Critic-RM (arXiv 2411.16646)."""
