"""What theory says of a task: the predictor of least risk, where it is known."""
