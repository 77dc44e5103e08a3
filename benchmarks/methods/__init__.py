"""What runs in fresh processes, one function for each method; each imports its library inside."""
