"""How wrong is it in fixed point: formats, rounding, overflow and their errors."""
