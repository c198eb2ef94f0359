"""What is written in the layers of a model, and what they do elsewhere."""
