"""One web page on some runs: tables, figures, and users looked at closely."""
