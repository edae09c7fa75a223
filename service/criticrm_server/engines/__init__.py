"""What runs the model. `base` is the protocol; a module each for vLLM, transformers, and the tests' fake."""
