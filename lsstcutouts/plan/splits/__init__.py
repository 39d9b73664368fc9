"""Which targets belong to training, validation, test and prediction, and whether these share pixels."""
