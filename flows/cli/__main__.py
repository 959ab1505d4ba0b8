"""`python -m flows.cli`: `made` by the interpreter that shall run it."""

from flows.cli.main import main

main()
