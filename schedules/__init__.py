"""How fast is a computation here: which kernels, with which loops, tiles and registers?

Nothing in this package changes a number; it needs `tvm` and is imported only when compiling.
"""
