"""Private parts of dependencies that pyrolvm stands on, each behind a function with a test of its contract."""
