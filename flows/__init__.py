"""The flows: the order of the steps, the engine and the command line."""
