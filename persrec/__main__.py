"""`python -m persrec` is the command `persrec`, for launchers that start modules."""

from persrec.cli import main

if __name__ == "__main__":
    main()
