"""A Ray cluster over the nodes of a job: what the scripts in deployments/pbs/ need of Python."""
