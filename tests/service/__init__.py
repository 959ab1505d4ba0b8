"""`make test-service`: deployments' runs that are cancelled, killed, suspended and started twice."""
