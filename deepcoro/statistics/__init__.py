"""What can be said of numbers beside a truth: pure functions of arrays, without a model, a config or a file.

Each gives its value for many vectors of patient weights at a time (a resample is such a vector, the estimate itself is the vector of ones),
so that `deepcoro.bootstrap` puts an interval beside every one of them.
"""
