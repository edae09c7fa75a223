"""The service's routes, a module each."""
