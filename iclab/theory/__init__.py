"""Theory of tasks: the predictor of least risk, where it is known."""
