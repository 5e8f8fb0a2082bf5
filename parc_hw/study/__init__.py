"""Which formats does a transform, an operator or a model need: grids, searches, reports."""
