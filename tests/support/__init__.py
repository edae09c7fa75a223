"""What tests share: tiny checkpoints, stand-ins for servers and engines, and how to start and stop real ones."""
