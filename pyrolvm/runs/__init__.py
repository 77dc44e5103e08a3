"""Runs in folders: who owns a folder, what is in it, and how it is read."""
