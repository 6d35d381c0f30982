"""`python -m kundenkreis` is the `kundenkreis` command."""

from kundenkreis.cli import main

main()
