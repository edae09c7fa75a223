"""Programs that train a Critic-RM from preference pairs."""
