"""`python -m ravenctl` is `ravenctl`."""

from ravenctl.cli import main

main()
