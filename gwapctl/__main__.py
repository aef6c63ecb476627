"""``python -m gwapctl``."""

from __future__ import annotations

from gwapctl.cli import main

if __name__ == "__main__":
    main()
