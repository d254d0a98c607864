"""Sphinx settings. Build with: make docs"""

import re
import sys

from bgpy import __version__

project = "bgpy"
author = copyright = "bgpy developers"
release = version = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "Detached Python servers that keep state", "fixed_sidebar": True, "page_width": "70em"}

# In docstrings a single backtick marks code, as in numpydoc.
default_role = "code"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"

# Every reference must resolve, except those to the standard library, whose index is on another machine.
nitpicky = True
nitpick_ignore = [("py:class", name) for name in ("Future", "ModuleType", "Tls")]  # as annotations write them, without a module
nitpick_ignore_regex = [("py:.*", rf"({'|'.join(map(re.escape, sorted(sys.stdlib_module_names)))})(\..*)?")]
