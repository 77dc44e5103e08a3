"""What is said about posteriors and methods from outside: comparisons, calibrations, evaluations, gaps, sweeps over many."""
