"""How Sphinx makes the site from these pages (make docs). Warnings are errors there, a dead link or anchor is one."""

from __future__ import annotations

from upslope import __version__

project = "upslope"
version = release = __version__
author = "the authors of upslope"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
highlight_language = "none"  # a block without a language is a command, a formula or an output

myst_heading_anchors = 3  # the anchors that GitHub gives headings too, so one link works in both places

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as the source spells them: no addresses of functions
autodoc_default_options = {"members": True}

# References that are written out must lead somewhere. Signatures also mention classes that have no page here, torch's
# and some of ours, and Sphinx does not ask the network for them.
nitpicky = True
nitpick_ignore_regex = [("py:(class|obj|data)", ".*")]

html_theme = "furo"
html_title = f"upslope {version}"
html_show_sourcelink = False
html_copy_source = False
