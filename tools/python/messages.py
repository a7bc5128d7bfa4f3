"""What a person is told when something is wrong: one line, in plain words.

Imported as tools.python.messages, with the root of the repository in sys.path.
"""
import argparse
import sys

LONGEST = 500  # characters of a line


class Parser(argparse.ArgumentParser):
    """A command line that takes options by their whole names only, and prints no usage before a complaint."""

    def __init__(self, name, **more):
        super().__init__(allow_abbrev=False, **more)
        self.name = name

    def error(self, message):
        print(f"{self.name}: {message} (--help says more)", file=sys.stderr)
        sys.exit(2)


def plain(error):
    """An exception as one line; of what the system refused the file and the reason, without the number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())[:LONGEST]
