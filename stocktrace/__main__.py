"""``python -m stocktrace``: the command line."""

from stocktrace.cli import main

if __name__ == "__main__":
    main()
