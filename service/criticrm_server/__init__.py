"""The FastAPI service that serves a Critic-RM."""
