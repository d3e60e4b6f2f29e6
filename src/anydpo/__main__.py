"""`python -m anydpo` is the command line."""

from anydpo.cli import main

main()
