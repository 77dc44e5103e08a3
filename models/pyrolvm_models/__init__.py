"""The zoo of generative models: ready problems with real data, registered by entry points like any plugin's.

Each module holds the Pyro model functions, the data and a function that builds the problem; its docstring gives
the model in formulas, the source of the data, and what variational inference loses on it. Use them by name:

    lvm.problem("eight_schools")                 # pyrolvm_models.eight_schools
    lvm.problem("gaussian_mixture", components=4)
"""
