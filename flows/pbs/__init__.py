"""Runs on a PBS cluster: Ray over the nodes of a job, jobs for runs of Prefect, and their servers."""
