"""Tasks whose prompts are labelled examples (x_i, y_i)."""
