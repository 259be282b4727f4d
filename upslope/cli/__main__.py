"""``python -m upslope.cli``."""

from upslope.cli import main

main()
