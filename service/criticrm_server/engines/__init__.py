"""What runs the model. `base` is the protocol; a module each for vLLM, for vLLM servers elsewhere
(`remote`, with `servers` and `remote_checks`), for transformers, and for the tests' fake.
"""
