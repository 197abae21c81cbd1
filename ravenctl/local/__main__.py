"""`python -m ravenctl.local up`: the same commands as `ravenctl local`."""

from ravenctl.local.commands import app

app(prog_name="ravenctl local")
