"""Slow, independent implementations that the fast ones are compared with. Plain on purpose."""
