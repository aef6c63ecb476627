"""Training: what it is told, what it sees, and what it leaves behind."""
