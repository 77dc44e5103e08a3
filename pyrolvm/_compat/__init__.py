"""What pyrolvm uses of other libraries that they do not promise to keep: one module for each library.

Each function says with which versions it was checked. ``tests/compat`` has a test of each, which fails with the name of
what changed; :mod:`pyrolvm._capture.selfcheck` tells a user who has a version that nobody tried.
"""
