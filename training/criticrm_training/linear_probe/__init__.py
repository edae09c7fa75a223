"""A reward row fitted on the frozen hidden states of any causal LM."""
