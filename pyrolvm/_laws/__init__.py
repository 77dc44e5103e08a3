"""Posteriors that are known in closed form: the structures that allow them, found in a program, and the laws themselves."""
