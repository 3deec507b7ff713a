"""A trained model as a folder for others: weights, what builds it, a card; read back in one line by `deepcoro.load`."""
