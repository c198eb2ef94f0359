"""Runs: the store that keeps them, the engine that starts workers, and what a worker does from start to end."""
