"""The work of ``localize`` on many machines, by engines that clusters run already; what it reads lies anywhere."""
