"""The version, in its one place: setup.py reads this file, it does not import it."""

__version__ = "0.1.0"
