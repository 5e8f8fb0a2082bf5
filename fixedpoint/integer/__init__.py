"""What does each operator of a whole model compute in integers, by docs/integer_rule.md?

Kernels on raw int32 words, channels last; `fixedpoint.integer.exact` is their oracle. Formats,
calibration and whole models are `parc_hw.integer`'s.
"""
