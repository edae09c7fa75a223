"""What runs the model.

`base` is the protocol; a module each for vLLM, for vLLM servers elsewhere (`remote`, with `remote_jobs`,
`remote_checks` and `backends`), for transformers, and for the tests' fake.
"""
