"""What every room stands on: errors, verdicts, progress, devices and the machine. Imports no other room but ``_compat``."""
