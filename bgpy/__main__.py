"""
Run the command line as ``python -m bgpy``.
"""

from bgpy.cli import main

if __name__ == "__main__":
    main(prog_name="bgpy")
