"""Which TIR schedules does the generic accelerator have?"""
