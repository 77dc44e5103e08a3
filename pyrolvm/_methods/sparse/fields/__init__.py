"""Unknowns that are coupled to neighbours, such as a series or a map, integrated out together."""
