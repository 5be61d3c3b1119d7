"""What each sub-command does; `app.__main__` only lists them. Heavy imports wait until a command runs."""
