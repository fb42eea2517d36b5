"""`python -m noterec`."""

from noterec.cli import main

main()
