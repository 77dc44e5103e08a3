"""Ways to a posterior or to its evidence, a folder each."""
