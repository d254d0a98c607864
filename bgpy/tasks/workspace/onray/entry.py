"""
Be the first code of a process of this folder: started as a script, with the name of its module and what `main` there takes.

A script and no ``-m``, so that what lies in the working directory cannot pass for a module of the standard library.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path[:1] = []  # the folder of this script
    _root = os.path.abspath(__file__).rsplit(os.sep, 5)[0]
    for _index, _entry in enumerate(sys.path):
        if os.path.isdir(os.path.join(_entry, "bgpy")):
            if not os.path.samefile(_entry, _root):
                sys.path.insert(_index, _root)  # before another bgpy
            break
    else:
        sys.path.append(_root)

import importlib


def main(arguments: list[str]) -> int:
    """Run the module that is named first, with the other arguments."""
    module = importlib.import_module(f"bgpy.tasks.workspace.onray.{arguments[0]}")
    return int(module.main(arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
