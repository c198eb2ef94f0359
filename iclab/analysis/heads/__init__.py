"""What attention heads read, write and do."""
