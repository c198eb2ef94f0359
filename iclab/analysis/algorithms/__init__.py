"""Which algorithm a predictor is: its distance to those that are known, on the same prompts."""
