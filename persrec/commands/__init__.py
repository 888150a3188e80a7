"""Commands: the groups that persrec.cli puts together."""
