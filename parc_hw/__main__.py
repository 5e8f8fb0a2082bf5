"""What does `python -m parc_hw` do? The same as `parc-hw`."""

from __future__ import annotations

from parc_hw.cli.main import run

if __name__ == "__main__":
    run()
