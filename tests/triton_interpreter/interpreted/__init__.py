"""A backend of Triton that says it is there, so that vLLM takes its V2 model runner on a machine without a GPU.

With TRITON_INTERPRET=1 kernels run in Triton's interpreter, and nothing is compiled.
"""
