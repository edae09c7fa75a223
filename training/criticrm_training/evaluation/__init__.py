"""How good a Critic-RM is on preference pairs: measured through the service, as its users will see it."""
