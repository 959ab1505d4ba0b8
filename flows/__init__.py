"""The outcomes: the order of steps, the engine and the command line."""
